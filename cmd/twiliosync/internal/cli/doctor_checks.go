package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twiliosync/twiliosync-go"
)

// loginOfProxy is the remedy of a proxy's 407.
const loginOfProxy = "Put the user name and password of the proxy into HTTPS_PROXY, in the form http://user:password@host:port."

func (d *doctor) credentials() finding {
	if d.emulator {
		return foundOK("those of the emulator")
	}
	if _, err := twiliosync.BasicAuthFromEnv(); err != nil {
		detail, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "twiliosync: "), "; ")
		return foundFailed(detail, "Set both TWILIO_API_KEY and TWILIO_API_SECRET, or both TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, each as the Console shows it.")
	}
	pair := []string{"TWILIO_API_KEY", "TWILIO_API_SECRET"}
	if os.Getenv(pair[0]) == "" {
		pair = []string{"TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"}
	}
	switch sid := os.Getenv(pair[0]); {
	case len(sid) != 34 || strings.Trim(sid[2:], "0123456789abcdefABCDEF") != "":
	case strings.HasPrefix(sid, "SK"):
		return foundOK("an API key (SK…) in %s", strings.Join(pair, " and "))
	case strings.HasPrefix(sid, "AC"):
		return foundOK("an account SID (AC…) in %s", strings.Join(pair, " and "))
	}
	return foundFailed(pair[0]+" is neither the SID of an API key nor that of an account",
		"Set "+pair[0]+" to SK or AC and 32 hexadecimal digits, as the Console shows it, and "+pair[1]+" to what belongs to it.")
}

// addressNoted is an Authenticator that looks at a request and refuses to sign
// it, so that it is not sent.
type addressNoted func(*url.URL)

// Authenticate notes the address.
func (note addressNoted) Authenticate(_ context.Context, req *http.Request) error {
	note(req.URL)
	return errors.New("only the address was wanted")
}

// locate finds the base URL as the SDK makes it of flag and environment. It
// also finds what is wrong with the names of service and stream.
func (d *doctor) locate() error {
	var options []twiliosync.Option
	base, region, edge := os.Getenv("TWILIO_SYNC_BASE_URL"), os.Getenv("TWILIO_REGION"), os.Getenv("TWILIO_EDGE")
	switch {
	case d.emulator:
		d.source, options = "--emulator", append(options, twiliosync.WithBaseURL("http://"+emulatorAddress))
	case base != "":
		d.source, options = "TWILIO_SYNC_BASE_URL", append(options, twiliosync.WithBaseURL(base))
	case region != "" && edge != "":
		d.source, options = "TWILIO_REGION and TWILIO_EDGE", append(options, twiliosync.WithRegion(region), twiliosync.WithEdge(edge))
	case region != "":
		d.source, options = "TWILIO_REGION", append(options, twiliosync.WithRegion(region))
	case edge != "":
		d.source, options = "TWILIO_EDGE", append(options, twiliosync.WithEdge(edge))
	}
	client, err := twiliosync.NewClient(addressNoted(func(address *url.URL) { d.base = address }), options...)
	if err != nil {
		return err
	}
	if d.stream == "" {
		_, _, err = client.Streams.List(context.Background(), d.service, nil)
	} else {
		_, _, err = client.Streams.Fetch(context.Background(), d.service, d.stream)
	}
	var wrong *twiliosync.ParameterError
	if errors.As(err, &wrong) {
		name := map[string]string{"serviceSID": "--service", "sid": "STREAM"}[wrong.Parameter]
		return wrongUsage("%s: %s", name, wrong.Reason)
	}
	d.base.Path, _, _ = strings.Cut(d.base.Path, "/v1/Services/")
	d.base.RawPath, _, _ = strings.Cut(d.base.RawPath, "/v1/Services/")
	d.base.RawQuery = ""
	return nil
}

func (d *doctor) address(refused error) finding {
	switch {
	case refused != nil && d.source == "TWILIO_SYNC_BASE_URL":
		return foundFailed(d.source+": "+reasonOf(refused), "Set TWILIO_SYNC_BASE_URL to the form https://host or https://host/prefix, or unset it to use https://sync.twilio.com.")
	case refused != nil:
		return foundFailed(d.source+": "+reasonOf(refused), "Set "+d.source+" to one DNS label, such as us1 for a region and ashburn for an edge, or unset it.")
	case strings.Contains(d.base.Path, "@"): // a password with a slash would be read, and shown, as host and path
		return foundFailed(d.source+": the path has an @", "Leave user name and password out of TWILIO_SYNC_BASE_URL, and write an @ that belongs to the path as %40.")
	case d.source == "":
		return foundOK("%s, the default", d.base)
	}
	return foundOK("%s, by %s", d.base, d.source)
}

// reasonOf is what an option of the SDK objects to, without its name, and
// without its remedy, which is one for programs.
func reasonOf(err error) string {
	_, reason, _ := strings.Cut(strings.TrimPrefix(err.Error(), "twiliosync: "), ": ")
	reason, _, _ = strings.Cut(reason, "; ")
	return reason
}

// lookAt is a remedy: to look at a part of what was set, if anything was, and
// at something else.
func lookAt(what, source, and string) string {
	if source == "" {
		return "Check " + and + "."
	}
	return "Check the " + what + " in " + source + ", and " + and + "."
}

// nearest is where the address comes from that this machine connects to.
func (d *doctor) nearest() string {
	if d.proxy != nil {
		return "HTTPS_PROXY"
	}
	return d.source
}

// dial opens a connection, and finds which proxy is in between.
func (d *doctor) dial(ctx context.Context) (reached, finding) {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: d.base})
	switch {
	case err != nil || proxy != nil && strings.Contains(proxy.Path, "@"): // a password with a slash would be shown as host and path
		return reached{}, foundFailed("HTTPS_PROXY is not the URL of a proxy",
			"Set HTTPS_PROXY to the form http://host:port or http://user:password@host:port, in which a / or @ of the password is %2F or %40.")
	case proxy == nil && d.base.Scheme == "https" && cmp.Or(os.Getenv("HTTPS_PROXY"), os.Getenv("https_proxy")) != "":
		return reach(ctx, d.base, nil), foundOK("none for %s, although HTTPS_PROXY is set: it is not a URL, or an exception holds", d.base.Host)
	case proxy == nil:
		return reach(ctx, d.base, nil), foundOK("none")
	}
	d.proxy = proxy
	way, shown := reach(ctx, d.base, proxy), proxy.Scheme+"://"+proxy.Host
	switch {
	case way.stage != atProxy:
		return way, foundOK("%s", shown)
	case way.tunnel == http.StatusProxyAuthRequired:
		return way, foundFailed(shown+" wants a login (status 407)", loginOfProxy)
	case way.tunnel != 0:
		return way, foundFailed(fmt.Sprintf("%s refuses a tunnel to %s with status %d", shown, d.base.Host, way.tunnel),
			"Ask whoever runs the proxy to allow tunnels to "+d.base.Host+", or put it into NO_PROXY if this machine can do without.")
	}
	return way, foundFailed(shown+" opens no tunnel to "+d.base.Host+": "+way.why(), "Check HTTPS_PROXY, and that a proxy is what listens there.")
}

func (d *doctor) dns(way reached) finding {
	host := d.base.Hostname()
	if d.proxy != nil {
		host = d.proxy.Hostname()
	}
	switch {
	case way.stage == atDNS:
		return foundFailed(host+": "+way.why(), lookAt("host name", d.nearest(), "this machine's network and DNS server"))
	case len(way.addresses) == 0:
		return foundOK("%s is an address", host)
	}
	return foundOK("%s is %s", host, strings.Join(way.addresses, ", "))
}

func (d *doctor) tcp(way reached) finding {
	switch {
	case way.stage == atTCP && d.emulator:
		return foundFailed(way.address+": "+way.why(), "Start the emulator with: twiliosync emulator")
	case way.stage == atTCP:
		return foundFailed(way.address+": "+way.why(), lookAt("host and port", d.nearest(), "that no firewall keeps this machine from "+way.address))
	}
	return foundOK("connected to %s", way.address)
}

func (d *doctor) tls(way reached) finding {
	host := d.base.Hostname()
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		record   tls.RecordHeaderError
	)
	switch err := way.err; {
	case d.base.Scheme == "http":
		return foundOK("none, http:// is for this machine only")
	case way.stage == connected:
		return foundOK("%s, the certificates for %s are valid for another %d days", tls.VersionName(way.tls.Version), host, daysLeft(way.tls))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && time.Now().Before(invalid.Cert.NotBefore):
		return foundFailed("the certificate of "+host+" is valid only from "+invalid.Cert.NotBefore.Format(time.DateOnly), "Set this machine's clock, or have the certificate replaced if the clock is right.")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return foundFailed("the certificate of "+host+" expired on "+invalid.Cert.NotAfter.Format(time.DateOnly), "Have the certificate renewed, or set this machine's clock if it is wrong.")
	case errors.As(err, &unknown) && unknown.Cert != nil:
		return foundFailed(fmt.Sprintf("the certificate of %s comes from %q, which this machine does not trust", host, unknown.Cert.Issuer),
			"If that is the CA of your own server or proxy, add it to the trusted certificates of this machine, else don't use this network.")
	case errors.As(err, &hostname):
		return foundFailed(fmt.Sprintf("the certificate is for %q, not for %s", hostname.Certificate.DNSNames[:min(3, len(hostname.Certificate.DNSNames))], host),
			lookAt("host name", d.source, "that nothing in this network answers in its place"))
	case errors.As(err, &record):
		return foundFailed("what answers for "+d.base.Host+" does not speak TLS", lookAt("port", d.source, "that nothing in this network answers in its place"))
	}
	return foundFailed(way.why(), "Look for a firewall or proxy that cuts TLS connections to "+d.base.Host+".")
}

// daysLeft is how long the chain is valid, to the end of the first of its certificates.
func daysLeft(state tls.ConnectionState) int {
	first := slices.MinFunc(state.VerifiedChains[0], func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	return int(time.Until(first.NotAfter) / (24 * time.Hour))
}

// singleAttempt keeps the SDK from trying again: a check shows what happens.
var singleAttempt = twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1})

// oneStream makes the reads short.
var oneStream = &twiliosync.ListSyncStreamParams{PageSize: 1}

// read lists one stream of the service. That Sync refuses it is an answer, too.
func (d *doctor) read(ctx context.Context) (firstRead, finding) {
	client, err := d.connect(singleAttempt)
	if err != nil {
		return firstRead{}, failureOfSync(err, d.base.Host)
	}
	first := firstRead{client: client}
	_, first.response, first.err = client.Streams.List(ctx, d.service, oneStream)
	first.at = time.Now()
	if first.err != nil && !(ownWords(first.err) && (refusesAccess(first.err) || errors.Is(first.err, twiliosync.ErrNotFound))) {
		return first, failureOfSync(first.err, d.base.Host)
	}
	request := ""
	if id := first.response.RequestID; id != "" {
		request = ", request " + id
	}
	return first, foundOK("Sync answers (status %d%s)", first.response.StatusCode, request)
}

// ownWords tells an answer of Twilio's from one of a portal or a proxy: only
// Twilio's has a code.
func ownWords(err error) bool {
	var e *twiliosync.Error
	return errors.As(err, &e) && e.Code != 0
}

func refusesAccess(err error) bool {
	return errors.Is(err, twiliosync.ErrUnauthorized) || errors.Is(err, twiliosync.ErrForbidden)
}

func (d *doctor) access(first firstRead) finding {
	if refusesAccess(first.err) {
		return failureOfSync(first.err, d.base.Host)
	}
	return foundOK("the credentials are accepted")
}

func (d *doctor) serviceExists(first firstRead) finding {
	if first.err != nil {
		return foundFailed(fmt.Sprintf("there is no service %q for these credentials at %s%s", d.service, d.base, numbersOf(first.err)),
			"Pass the SID (IS…) or unique name of a service of this account and region with --service.")
	}
	return foundOK("%q exists", d.service)
}

func (d *doctor) streamExists(ctx context.Context, first firstRead) finding {
	stream, _, err := first.client.Streams.Fetch(ctx, d.service, d.stream)
	switch {
	case ownWords(err) && errors.Is(err, twiliosync.ErrNotFound):
		return foundFailed(fmt.Sprintf("there is no stream %q in the service %q%s", d.stream, d.service, numbersOf(err)),
			"Check the name, or create the stream with twiliosync streams create: publishing does not.")
	case err != nil:
		return failureOfSync(err, d.base.Host)
	case stream.DateExpires.IsZero():
		return foundOK("%q exists and never expires", d.stream)
	}
	return foundOK("%q exists until %s", d.stream, stream.DateExpires.Format(time.RFC3339))
}

func (d *doctor) clock(first firstRead) finding {
	date, err := http.ParseTime(first.response.Header.Get("Date"))
	if err != nil {
		return foundSkipped("the answer has no Date")
	}
	const bound = 5 * time.Minute
	skew, direction := first.at.Sub(date).Round(time.Second), "ahead of"
	if skew < 0 {
		skew, direction = -skew, "behind"
	}
	if skew > bound {
		return foundFailed(fmt.Sprintf("this machine is %v %s the answer's Date, more than %v", skew, direction, bound), "Set this machine's clock, and let it follow a time server (NTP).")
	}
	return foundOK("this machine is %v %s the answer's Date", skew, direction)
}

func (d *doctor) latency(ctx context.Context, first firstRead) finding {
	var times [5]time.Duration
	for i := range times {
		start := time.Now()
		if _, _, err := first.client.Streams.List(ctx, d.service, oneStream); err != nil {
			return failureOfSync(err, d.base.Host)
		}
		times[i] = time.Since(start).Round(100 * time.Microsecond)
	}
	slices.Sort(times[:])
	return foundOK("p50 %v of %d reads (%v to %v)", times[len(times)/2], len(times), times[0], times[len(times)-1])
}

func (d *doctor) publishOne(ctx context.Context, first firstRead) finding {
	message, _, err := first.client.StreamMessages.Create(ctx, d.service, d.stream, map[string]string{"twiliosync": "doctor"})
	if err != nil {
		found := failureOfSync(err, d.base.Host)
		found.detail = twiliosync.OutcomeOf(err).String() + ": " + found.detail
		return found
	}
	return foundOK("published %s to %q", message.SID, d.stream)
}

// failureOfSync says of a call that failed only what its error proves.
func failureOfSync(err error, host string) finding {
	var e *twiliosync.Error
	if !errors.As(err, &e) {
		e = new(twiliosync.Error)
	}
	detail := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "twiliosync: "), e.Outcome.String()+": ")
	switch {
	case e.StatusCode == 0:
		return foundFailed(detail, "Run doctor again, and if it fails again look for a firewall or proxy that cuts connections to "+host+".")
	case e.StatusCode == http.StatusProxyAuthRequired && e.Code == 0:
		return foundFailed(detail, loginOfProxy)
	case e.StatusCode == http.StatusTooManyRequests:
		return foundFailed(detail, "Wait a minute, and run doctor again.")
	case e.StatusCode >= http.StatusInternalServerError:
		return foundFailed(detail, "Try again in some minutes, and if it fails again look at https://status.twilio.com and at the proxies in between.")
	case e.Code == 0:
		return foundFailed(detail, "Log in to this network if it wants that, and check the base URL and the proxies in between, since what answers is not Sync.")
	case e.Code == 20003 && e.StatusCode == http.StatusUnauthorized:
		return foundFailed("Sync refuses the credentials"+numbersOf(err), "Set the credentials anew without quotes, and check that they belong to this region, the key still exists and the account is active.")
	case e.Code == 20008:
		return foundFailed("these are test credentials, which Sync does not take"+numbersOf(err), "Use live credentials, or --emulator for tests.")
	case e.Code == 54056:
		return foundFailed("the service belongs to another account"+numbersOf(err), "Use the credentials of the account that the service belongs to, or another --service.")
	}
	return foundFailed(detail, fmt.Sprintf("Do what https://www.twilio.com/docs/api/errors/%d says.", e.Code))
}

// numbersOf are the status and code to look up.
func numbersOf(err error) string {
	var e *twiliosync.Error
	if !errors.As(err, &e) {
		return ""
	}
	return fmt.Sprintf(" (status %d, code %d)", e.StatusCode, e.Code)
}
