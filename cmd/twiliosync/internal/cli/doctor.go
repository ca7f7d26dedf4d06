package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/twiliosync/twiliosync-go"
)

func (a *app) doctorCommand() *cobra.Command {
	var service string
	var publishes bool
	c := &cobra.Command{
		Use:   "doctor [STREAM]",
		Short: "Find out why publishing doesn't work",
		Long: `Check, one after the other, all that publishing needs: credentials, base URL,
proxy, DNS, TCP, TLS, an answer of Sync's, access, the service, the stream, this
machine's clock (at most 5 minutes off) and the latency (p50 of 5 reads).

Each check is a line: ok, failed or skipped, its name, and what was found. The
line below a failed one says what to do; what depends on it is skipped. With
-o json each check is a line of JSON with check, result and detail, and remedy
if it failed.

Nothing is published, except for the message {"twiliosync":"doctor"} with
--publish. Without credentials DNS, TCP and TLS are checked all the same. The
exit status is 1 if a check failed.`,
		Example: `  twiliosync doctor
  twiliosync doctor orders --publish`,
		Args: takes(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			d := &doctor{app: a, service: service, publishes: publishes}
			switch {
			case len(args) == 0 && publishes:
				return wrongUsage("--publish needs a STREAM; the form is: %s", c.UseLine())
			case len(args) == 1 && args[0] == "":
				return wrongUsage("STREAM is empty; pass a SID or a unique name")
			case len(args) == 1:
				d.stream = args[0]
			}
			ctx, cancel := a.untilSignal()
			defer cancel()
			return d.run(ctx)
		},
	}
	serviceFlag(c, &service)
	c.Flags().BoolVar(&publishes, "publish", false, "also publish one message to STREAM")
	return c
}

// doctor makes the checks. The later ones use what the earlier ones found.
type doctor struct {
	*app
	service, stream string // stream is empty if none is to be checked
	publishes       bool

	source string   // of the base URL: a flag or variables; empty for the default
	base   *url.URL // as the SDK uses it
	proxy  *url.URL // nil: none
	failed bool     // a check has
	broken error    // of writing
}

// finding is what a check found.
type finding struct{ result, detail, remedy string }

func foundOK(format string, args ...any) finding {
	return finding{result: "ok", detail: fmt.Sprintf(format, args...)}
}
func foundFailed(detail, remedy string) finding { return finding{"failed", detail, remedy} }
func foundSkipped(reason string) finding        { return finding{result: "skipped", detail: reason} }

func (d *doctor) run(ctx context.Context) error {
	refused := d.locate()
	if usage := new(usageError); errors.As(refused, &usage) {
		return usage
	}
	noCredentials := d.check(ctx, "credentials", "", d.credentials)
	noAddress := d.check(ctx, "base URL", "", func() finding { return d.address(refused) })

	var way reached
	noProxy := d.check(ctx, "proxy", noAddress, func() (found finding) { way, found = d.dial(ctx); return found })
	noDNS := noProxy
	if way.stage != notDialled { // the proxy's address is good, whatever it says to a tunnel
		noDNS = ""
	}
	noDNS = d.check(ctx, "DNS", noDNS, func() finding { return d.dns(way) })
	noTCP := d.check(ctx, "TCP", noDNS, func() finding { return d.tcp(way) })
	noTLS := d.check(ctx, "TLS", cmp.Or(noTCP, noProxy), func() finding { return d.tls(way) })

	var first firstRead
	noAnswer := d.check(ctx, "HTTP", cmp.Or(noTLS, noCredentials), func() (found finding) { first, found = d.read(ctx); return found })
	noAccess := d.check(ctx, "access", noAnswer, func() finding { return d.access(first) })
	noService := d.check(ctx, "service", noAccess, func() finding { return d.serviceExists(first) })
	noStream := noService
	if d.stream == "" {
		noStream = "no STREAM is given"
	}
	noStream = d.check(ctx, "stream", noStream, func() finding { return d.streamExists(ctx, first) })
	d.check(ctx, "clock", noAnswer, func() finding { return d.clock(first) })
	d.check(ctx, "latency", noService, func() finding { return d.latency(ctx, first) })
	if !d.publishes {
		noStream = "publishes only with --publish"
	}
	d.check(ctx, "publish", noStream, func() finding { return d.publishOne(ctx, first) })

	if d.broken == nil && (d.failed || ctx.Err() != nil) {
		return errSaid
	}
	return d.broken
}

// check makes one check, unless it is blocked, and prints what it found. It
// returns why those that depend on it are blocked, "" if they aren't.
func (d *doctor) check(ctx context.Context, name, blocked string, find func() finding) string {
	found := foundSkipped(blocked)
	if blocked == "" && ctx.Err() == nil {
		found = find()
	}
	if found.result != "ok" && ctx.Err() != nil {
		found = foundSkipped("interrupted")
	}
	d.print(name, found)
	switch found.result {
	case "ok":
		return ""
	case "failed":
		d.failed = true
		return name + " failed"
	}
	return found.detail
}

func (d *doctor) print(name string, found finding) {
	var err error
	if d.json() {
		err = d.printJSON(struct {
			Check  string `json:"check"`
			Result string `json:"result"`
			Detail string `json:"detail"`
			Remedy string `json:"remedy,omitempty"`
		}{name, found.result, found.detail, found.remedy})
	} else {
		line := fmt.Sprintf("%-7s  %-11s  %s\n", found.result, name, printableLine(found.detail))
		if found.remedy != "" {
			line += fmt.Sprintf("%22s%s\n", "", printableLine(found.remedy))
		}
		_, err = fmt.Fprint(d.Out, line)
	}
	d.broken = cmp.Or(d.broken, err)
}

// printableLine keeps names that others chose from steering the terminal.
func printableLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}

// firstRead is the first request with credentials, and what came of it.
type firstRead struct {
	client   *twiliosync.Client
	response *twiliosync.Response // nil if no answer arrived
	at       time.Time            // of the answer
	err      error
}
