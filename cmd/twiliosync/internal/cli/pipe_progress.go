package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

const (
	showEvery  = time.Second / 5
	plainEvery = 5 * time.Second // where there is no terminal
	rateOver   = 5 * time.Second
)

// progressNow is what there is to show at a moment.
type progressNow struct {
	counts
	atLimit int // streams
}

// progress shows on standard error what is going on: one line that never wraps,
// or, where there is no terminal, a line from time to time.
type progress struct {
	out   io.Writer
	width func() int // nil: no terminal
	total int        // below zero: unknown
	bar   *progressbar.ProgressBar

	mu    sync.Mutex
	past  []sample // of the last seconds
	over  chan struct{}
	ended sync.WaitGroup
}

// sample is how many lines were done at a time.
type sample struct {
	at   time.Time
	done int
}

func newProgress(out io.Writer, total int) *progress {
	p := &progress{out: out, total: total, over: make(chan struct{})}
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.width = func() int {
			width, _, err := term.GetSize(int(file.Fd()))
			if err != nil || width <= 0 {
				return 80
			}
			return width
		}
	}
	if total > 0 {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(io.Discard), progressbar.OptionSetWidth(10), progressbar.OptionSetPredictTime(true))
	}
	return p
}

// start shows what there is, until finish.
func (p *progress) start(now func() progressNow) {
	every := plainEvery
	if p.width != nil {
		every = showEvery
	}
	p.past = []sample{{at: time.Now()}}
	p.ended.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.display(now())
			case <-p.over:
				return
			}
		}
	})
}

func (p *progress) finish() {
	close(p.over)
	p.ended.Wait()
	p.say("")
}

func (p *progress) display(now progressNow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	parts := p.parts(now)
	if p.width == nil {
		fmt.Fprintln(p.out, fitted(parts, 1000))
		return
	}
	line := fitted(parts, p.width()-1)
	if p.bar != nil {
		_ = p.bar.Set(min(now.lines(), p.total)) // it writes to nothing
		if bar := strings.Trim(p.bar.String(), " \r\n"); utf8.RuneCountInString(line)+2+utf8.RuneCountInString(bar) < p.width() {
			line += "  " + bar
		}
	}
	fmt.Fprint(p.out, p.clear()+line)
}

// clear empties the line, also where escape sequences are not understood.
func (p *progress) clear() string { return "\r" + strings.Repeat(" ", p.width()-1) + "\r" }

// parts are what a line says, in the order of importance, each with a shorter
// form if it has one.
func (p *progress) parts(now progressNow) [][]string {
	count := fmt.Sprintf("%d lines", now.lines())
	if p.total >= 0 {
		count = fmt.Sprintf("%d/%d lines", now.lines(), p.total)
	}
	parts := [][]string{{count}, {fmt.Sprintf("%.0f/s", p.rate(now.lines()-now.skippedAccepted-now.skippedUnknown))}}
	switch now.atLimit {
	case 0:
	case 1:
		parts = append(parts, []string{"1 stream at its rate limit", "1 at its limit"})
	default:
		parts = append(parts, []string{fmt.Sprintf("%d streams at their rate limit", now.atLimit), fmt.Sprintf("%d at their limit", now.atLimit)})
	}
	if refused := now.rejected + now.notSent; refused > 0 {
		parts = append(parts, []string{fmt.Sprintf("%d refused", refused)})
	}
	if now.unknown > 0 {
		parts = append(parts, []string{fmt.Sprintf("%d unknown", now.unknown)})
	}
	return parts
}

// rate is how many lines are done in a second, of the last few.
func (p *progress) rate(done int) float64 {
	now := time.Now()
	p.past = append(p.past, sample{now, done})
	for len(p.past) > 2 && now.Sub(p.past[1].at) >= rateOver {
		p.past = p.past[1:]
	}
	if since := now.Sub(p.past[0].at).Seconds(); since > 0 {
		return float64(done-p.past[0].done) / since
	}
	return 0
}

// fitted joins as much of the parts as fits into a width.
func fitted(parts [][]string, width int) string {
	line := ""
	for _, forms := range parts {
		for _, form := range forms {
			longer := form
			if line != "" {
				longer = line + ", " + form
			}
			if utf8.RuneCountInString(longer) <= width {
				line = longer
				break
			}
		}
	}
	return line
}

// say writes a line beside the progress, which stays where it is; nothing only
// clears the progress.
func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width != nil {
		fmt.Fprint(p.out, p.clear())
	}
	if text != "" {
		fmt.Fprintln(p.out, text)
	}
}
