package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// plainEvery is how often there is a line of progress where there is no
// terminal.
const plainEvery = 5 * time.Second

// progress shows on standard error what is going on.
type progress struct {
	mu      sync.Mutex
	out     io.Writer
	bar     *progressbar.ProgressBar // nil: plain lines
	counts  counts
	paused  map[string]time.Time // until when, by stream
	started time.Time
	over    chan struct{}
	ended   sync.WaitGroup
}

// newProgress shows a bar if out is a terminal. A total below zero is unknown.
func newProgress(out io.Writer, total int, terminal bool) *progress {
	p := &progress{out: out, paused: map[string]time.Time{}, over: make(chan struct{})}
	if terminal {
		p.bar = progressbar.NewOptions(total,
			progressbar.OptionSetWriter(out),
			progressbar.OptionShowCount(),
			progressbar.OptionShowIts(),
			progressbar.OptionSetItsString("lines"),
			progressbar.OptionSetWidth(20),
			progressbar.OptionShowDescriptionAtLineEnd(),
			progressbar.OptionSetPredictTime(total > 0),
			progressbar.OptionClearOnFinish())
	}
	return p
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// start shows the progress, from time to time, until finish.
func (p *progress) start() {
	p.started = time.Now()
	every := plainEvery
	if p.bar != nil {
		every = time.Second / 10
	}
	p.ended.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.show()
			case <-p.over:
				return
			}
		}
	})
}

func (p *progress) finish() {
	close(p.over)
	p.ended.Wait()
	if p.bar != nil {
		p.bar.Clear()
	}
}

func (p *progress) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.counts
	text := fmt.Sprintf("%d sent, %d refused, %d unknown, %d streams paused", c.sent, c.refused, c.unknown, p.pausedNow())
	if p.bar == nil {
		rate := float64(c.sent+c.refused+c.unknown) / time.Since(p.started).Seconds()
		fmt.Fprintf(p.out, "%s, %.0f/s\n", text, rate)
		return
	}
	p.bar.Describe(text)
	p.bar.Set(c.lines())
}

func (p *progress) pausedNow() int {
	now := time.Now()
	maps.DeleteFunc(p.paused, func(_ string, until time.Time) bool { return until.Before(now) })
	return len(p.paused)
}

// logger returns a logger that notes which streams a 429 pauses: unlike
// WithObserver's Attempt, the log names the stream, by its last four characters.
// So two streams that end alike count as one.
func (p *progress) logger() *slog.Logger { return slog.New(pauseHandler{p}) }

type pauseHandler struct{ p *progress }

func (pauseHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h pauseHandler) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h pauseHandler) WithGroup(string) slog.Handler          { return h }

func (h pauseHandler) Handle(_ context.Context, attempt slog.Record) error {
	fields := map[string]slog.Value{}
	attempt.Attrs(func(field slog.Attr) bool {
		fields[field.Key] = field.Value
		return true
	})
	if fields["status"].Any() != int64(http.StatusTooManyRequests) {
		return nil
	}
	h.p.mu.Lock()
	defer h.p.mu.Unlock()
	h.p.paused[fields["stream"].String()] = time.Now().Add(fields["delay"].Duration())
	return nil
}

func (p *progress) set(c counts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts = c
}

// tell reports a refused line.
func (p *progress) tell(r record) {
	if r.Stream == "" { // the error has the number of the line
		p.say(r.Error)
		return
	}
	p.say(fmt.Sprintf("line %d: %s", r.Line, r.Error))
}

// say writes a line beside the bar.
func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.bar.Clear()
	}
	fmt.Fprintln(p.out, text)
}
