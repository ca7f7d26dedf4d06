package emulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// fault is a line of the fault script in JSON: which requests it hits (next, for or every, and of these those to a stream
// or of an operation), and with what (one of the others).
type fault struct {
	Next      *int      `json:"next"`
	For       *duration `json:"for"`
	Every     *bool     `json:"every"`
	Stream    *string   `json:"stream"`
	Operation *string   `json:"operation"`

	Answer      *faultAnswer `json:"answer"`
	LoseAnswer  *bool        `json:"loseAnswer"`
	Reset       *bool        `json:"reset"`
	CutBody     *bool        `json:"cutBody"`
	NeverAnswer *bool        `json:"neverAnswer"`
	Delay       *duration    `json:"delay"`
}

type faultAnswer struct {
	Status     *int `json:"status"`
	Code       int  `json:"code"`
	RetryAfter *int `json:"retryAfter"` // seconds
}

// duration is written as text such as "1.5s", or as a number of seconds.
type duration time.Duration

// maxDuration bounds durations: a longer one is a mistake.
const maxDuration = 24 * time.Hour

// UnmarshalJSON implements [json.Unmarshaler].
func (d *duration) UnmarshalJSON(text []byte) error {
	seconds, err := strconv.ParseFloat(string(text), 64)
	if err == nil {
		if seconds > 0 && seconds <= maxDuration.Seconds() {
			*d = duration(seconds * float64(time.Second))
		}
		return nil
	}
	var words string
	_ = json.Unmarshal(text, &words) // "" is 0, to which check objects by name
	if value, err := time.ParseDuration(words); err == nil && value > 0 && value <= maxDuration {
		*d = duration(value)
	}
	return nil
}

// apply checks the fault and puts it into the script.
func (f *fault) apply(fake *twiliosynctest.Server) error {
	if err := f.check(); err != nil {
		return err
	}
	line := f.reach(fake).Optional()
	if f.Stream != nil {
		line = line.ToStream(*f.Stream)
	}
	if f.Operation != nil {
		var err error
		if line, err = toOperation(line, *f.Operation); err != nil {
			return err
		}
	}
	f.play(line)
	return nil
}

func (f *fault) reach(fake *twiliosynctest.Server) twiliosynctest.Fault {
	switch {
	case f.Next != nil:
		return fake.Next(*f.Next)
	case f.For != nil:
		return fake.For(time.Duration(*f.For))
	default:
		return fake.Every()
	}
}

// toOperation turns the panic, by which the script tells its author of a mistake, into an error.
func toOperation(line twiliosynctest.Fault, operation string) (narrowed twiliosynctest.Fault, err error) {
	defer func() {
		if mistake := recover(); mistake != nil {
			err = &fieldError{"operation", "is not known: " + strings.TrimPrefix(fmt.Sprint(mistake), "twiliosynctest: ")}
		}
	}()
	return line.ToOperation(operation), nil
}

func (f *fault) play(line twiliosynctest.Fault) {
	switch {
	case f.Answer != nil:
		if f.Answer.RetryAfter != nil {
			line = line.WithHeader("Retry-After", strconv.Itoa(*f.Answer.RetryAfter))
		}
		line.Answer(*f.Answer.Status, f.Answer.Code)
	case f.LoseAnswer != nil:
		line.LoseAnswer()
	case f.Reset != nil:
		line.Reset()
	case f.CutBody != nil:
		line.CutBody()
	case f.NeverAnswer != nil:
		line.NeverAnswer()
	case f.Delay != nil:
		line.Delay(time.Duration(*f.Delay))
	}
}

// check returns the first objection, a *fieldError.
func (f *fault) check() error {
	reach := []part{{"next", f.Next != nil}, {"for", f.For != nil}, {"every", f.Every != nil}}
	verb := []part{
		{"answer", f.Answer != nil}, {"loseAnswer", f.LoseAnswer != nil}, {"reset", f.Reset != nil},
		{"cutBody", f.CutBody != nil}, {"neverAnswer", f.NeverAnswer != nil}, {"delay", f.Delay != nil},
	}
	if err := exactlyOne(reach); err != nil {
		return err
	}
	if err := exactlyOne(verb); err != nil {
		return err
	}
	for name, flag := range map[string]*bool{
		"every": f.Every, "loseAnswer": f.LoseAnswer, "reset": f.Reset, "cutBody": f.CutBody, "neverAnswer": f.NeverAnswer,
	} {
		if flag != nil && !*flag {
			return &fieldError{name, "can only be true; leave it out otherwise"}
		}
	}
	for name, d := range map[string]*duration{"for": f.For, "delay": f.Delay} {
		if d != nil && *d == 0 {
			return &fieldError{name, fmt.Sprintf("must be a duration such as \"1.5s\" or a number of seconds, above 0 and up to %v", maxDuration)}
		}
	}
	if f.Next != nil && (*f.Next < 1 || *f.Next > 1_000_000) {
		return &fieldError{"next", "must be between 1 and 1,000,000"}
	}
	if f.Stream != nil && *f.Stream == "" {
		return &fieldError{"stream", "must not be empty; leave it out for all streams"}
	}
	return f.Answer.check()
}

func (a *faultAnswer) check() error {
	switch {
	case a == nil:
		return nil
	case a.Status == nil || *a.Status < 200 || *a.Status > 599:
		return &fieldError{"answer.status", "must be between 200 and 599, such as " + strconv.Itoa(http.StatusTooManyRequests)}
	case a.Code < 0 || a.Code > 99_999:
		return &fieldError{"answer.code", "must be between 0 (none) and 99999"}
	case a.RetryAfter != nil && (*a.RetryAfter < 0 || *a.RetryAfter > 1_000_000):
		return &fieldError{"answer.retryAfter", "must be a number of seconds between 0 and 1,000,000"}
	}
	return nil
}

// part is a field of which one must be there.
type part struct {
	name  string
	given bool
}

func exactlyOne(parts []part) error {
	var names, given []string
	for _, p := range parts {
		names = append(names, p.name)
		if p.given {
			given = append(given, p.name)
		}
	}
	switch len(given) {
	case 0:
		return &fieldError{names[0], "is missing, or one of " + strings.Join(names[1:], ", ")}
	case 1:
		return nil
	default:
		return &fieldError{given[1], "can't stand beside " + given[0] + ": only one of " + strings.Join(names, ", ")}
	}
}
