package cli

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const defaultNATS = "nats://127.0.0.1:4222"

// natsFlags say where the log is.
type natsFlags struct {
	url, creds string
	embedded   string // the directory of a server in this process
}

// natsUse is what a command needs of a server in the process.
type natsUse int

const (
	looksIn natsUse = iota // the directory must be there
	makes                  // or is made
	serves                 // and others reach the server
)

// open connects to the log. The function ends what it has begun.
func (f natsFlags) open(use natsUse, opts ...nats.Option) (jetstream.JetStream, func(), error) {
	if f.embedded == "" {
		return f.dial(cmp.Or(f.url, os.Getenv("NATS_URL"), defaultNATS), opts...)
	}
	own, err := f.serve(use)
	var taken *directoryTaken
	if errors.As(err, &taken) && use != serves && taken.url != "" {
		return f.dial(taken.url, opts...)
	}
	if err != nil {
		return nil, nil, err
	}
	js, disconnect, err := f.dial(cmp.Or(own.url, defaultNATS), append(opts, nats.InProcessServer(own.server))...)
	if err != nil {
		own.end()
		return nil, nil, err
	}
	return js, func() { disconnect(); own.end() }, nil
}

// dial connects to a server, which may be a list.
func (f natsFlags) dial(servers string, opts ...nats.Option) (jetstream.JetStream, func(), error) {
	shown, err := withoutSecrets(servers)
	if err != nil {
		return nil, nil, err
	}
	opts = append(opts, nats.Name("twiliosync"), nats.MaxReconnects(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // the calls' errors say it
	if f.creds != "" {
		opts = append(opts, nats.UserCredentials(f.creds))
	}
	conn, err := nats.Connect(servers, opts...)
	switch {
	case errors.Is(err, nats.ErrNoServers):
		return nil, nil, fmt.Errorf("no NATS server answers at %s; start one (nats-server -js), say with --nats where it is, or use --embedded DIR", shown)
	case err != nil:
		return nil, nil, fmt.Errorf("can't connect to NATS at %s: %w", shown, err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return js, conn.Close, nil
}

// withoutSecrets is a list of servers as it may be shown: a URL may have a
// password or a token.
func withoutSecrets(servers string) (string, error) {
	var shown []string
	for text := range strings.SplitSeq(servers, ",") {
		u, err := parseNATS(text)
		if err != nil {
			return "", err
		}
		u.User = nil
		shown = append(shown, u.String())
	}
	return strings.Join(shown, ", "), nil
}

func parseNATS(text string) (*url.URL, error) {
	text = strings.TrimSpace(text)
	if !strings.Contains(text, "://") {
		text = "nats://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" { // what is behind the host may be a password with a slash; url's own error has it too
		return nil, wrongUsage("what --nats or NATS_URL says is not the URL of a NATS server; use the form %s", defaultNATS)
	}
	return u, nil
}

// ownNATS is a NATS server in this process.
type ownNATS struct {
	server *server.Server
	url    string // empty: no other process can reach it
	lock   *flock.Flock
	dir    string
}

// directoryTaken is the error if another process has a server in a directory.
type directoryTaken struct {
	dir, url string
}

func (e *directoryTaken) Error() string {
	if e.url == "" {
		return fmt.Sprintf("another command works in %s; try again when it has ended", e.dir)
	}
	return fmt.Sprintf("another process has its NATS server in %s; use --nats %s instead of --embedded", e.dir, e.url)
}

func urlFile(dir string) string { return filepath.Join(dir, "twiliosync.url") }

// serve starts a server, one for each directory.
func (f natsFlags) serve(use natsUse) (*ownNATS, error) {
	options := &server.Options{
		JetStream: true, StoreDir: f.embedded, DontListen: use != serves,
		NoSigs: true, NoLog: true,
	}
	if use == serves {
		var err error
		if options.Host, options.Port, err = f.address(); err != nil {
			return nil, err
		}
	}
	if use != looksIn {
		if err := os.MkdirAll(f.embedded, 0o700); err != nil {
			return nil, fmt.Errorf("can't make the directory of --embedded: %w", err)
		}
	} else if _, err := os.Stat(f.embedded); err != nil {
		return nil, fmt.Errorf("can't find the directory of --embedded, which relay setup makes: %w", err)
	}
	lock := flock.New(filepath.Join(f.embedded, "twiliosync.lock"))
	locked, err := lock.TryLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("can't lock the directory of --embedded: %w", err)
	case !locked:
		address, _ := os.ReadFile(urlFile(f.embedded)) // there is none if it can't be reached
		return nil, &directoryTaken{f.embedded, strings.TrimSpace(string(address))}
	}
	own := &ownNATS{lock: lock, dir: f.embedded}
	if err := own.start(options); err != nil {
		own.end()
		return nil, err
	}
	return own, nil
}

// address is where a server listens: on this machine only.
func (f natsFlags) address() (host string, port int, err error) {
	u, err := parseNATS(cmp.Or(f.url, defaultNATS))
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(cmp.Or(u.Port(), "4222"))
	if err != nil || !isLoopback(u.Hostname()) {
		return "", 0, wrongUsage("with --embedded, --nats is an address of this machine, such as %s", defaultNATS)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return u.Hostname(), port, nil
}

func (o *ownNATS) start(options *server.Options) (err error) {
	if err := os.Remove(urlFile(o.dir)); err != nil && !errors.Is(err, os.ErrNotExist) { // of one that was killed
		return err
	}
	if o.server, err = server.NewServer(options); err != nil {
		return fmt.Errorf("the NATS server of --embedded can't start: %w", err)
	}
	complaint := &serverLog{}
	o.server.SetLoggerV2(complaint, false, false, false)
	o.server.Start()
	if text := complaint.text(); text != "" {
		return fmt.Errorf("the NATS server of --embedded can't start; use another port (--nats) or directory: %s", text)
	}
	if !o.server.ReadyForConnections(10 * time.Second) {
		return errors.New("the NATS server of --embedded did not start within 10 s; try again")
	}
	if options.DontListen {
		return nil
	}
	o.url = "nats://" + net.JoinHostPort(options.Host, strconv.Itoa(o.server.Addr().(*net.TCPAddr).Port))
	return os.WriteFile(urlFile(o.dir), []byte(o.url), 0o600)
}

func (o *ownNATS) end() {
	if o.server != nil {
		o.server.Shutdown()
		o.server.WaitForShutdown()
	}
	if o.url != "" {
		_ = os.Remove(urlFile(o.dir)) // else the next one does
	}
	_ = o.lock.Unlock() // it ends with the process anyway
}

// serverLog keeps why a server can't run. The rest a command learns by its
// calls.
type serverLog struct {
	mu    sync.Mutex
	fatal string
}

// Fatalf is called instead of ending the process.
func (l *serverLog) Fatalf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fatal = cmp.Or(l.fatal, fmt.Sprintf(format, args...))
}

func (l *serverLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

// Noticef and the others drop what the server says of its own.
func (l *serverLog) Noticef(string, ...any) {}

// Warnf drops it.
func (l *serverLog) Warnf(string, ...any) {}

// Errorf drops it.
func (l *serverLog) Errorf(string, ...any) {}

// Debugf drops it.
func (l *serverLog) Debugf(string, ...any) {}

// Tracef drops it.
func (l *serverLog) Tracef(string, ...any) {}
