//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/relay"
)

// process is a worker or a server that this program has started.
type process struct {
	name string
	cmd  *exec.Cmd
	left chan struct{}
}

func start(name string, args ...string) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(program, args...), left: make(chan struct{})} //nolint:gosec,noctx // itself; it is ended by a signal
	p.cmd.Env = append(os.Environ(), "CHAOS_CHILD=1")
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.left)
	}()
	return p, nil
}

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// end sends a signal that ends it, and waits.
func (p *process) end(s syscall.Signal) error {
	if err := p.signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.left:
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s does not end", p.name)
	}
}

func (r *run) addWorker() error {
	p, err := start("worker", "worker", r.nats.workersURL(), r.service.http.URL)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.workers = append(r.workers, p)
	return nil
}

func (r *run) stopWorkers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.workers {
		_ = p.signal(syscall.SIGCONT)
		_ = p.end(syscall.SIGKILL)
	}
}

// work is a worker's process.
func work(natsURL, syncURL string, unpaced bool) error {
	conn, err := nats.Connect(natsURL, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	var opts []twiliosync.Option
	if unpaced {
		opts = append(opts, twiliosync.WithStreamRateLimit(math.MaxInt32, time.Second))
	}
	client, err := newClient(syncURL, opts...)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return eventually(ctx, func() error {
		info, err := js.Stream(ctx, "TWILIOSYNC")
		if err != nil {
			return err
		}
		partitions, err := strconv.Atoi(info.CachedInfo().Config.Metadata["twiliosync-partitions"])
		if err != nil {
			return err
		}
		return relay.Run(ctx, js, client, relay.Options{Config: relay.Config{Partitions: partitions, Replicas: info.CachedInfo().Config.Replicas}})
	})
}

// cluster is one NATS server, or several, behind a proxy for the workers.
type cluster struct {
	dir     string
	ports   []int // for clients, then for each other
	servers []*process
	proxy   *toxiproxy.Proxy
	noted   atomic.Int64
}

func startCluster(dir string, n int) (*cluster, error) {
	c := &cluster{dir: dir, servers: make([]*process, n)}
	for range 2*n + 1 {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		c.ports = append(c.ports, port)
	}
	for i := range n {
		if err := c.start(i); err != nil {
			return nil, err
		}
	}
	c.proxy = newProxy(fmt.Sprintf("127.0.0.1:%d", c.ports[2*n]), fmt.Sprintf("127.0.0.1:%d", c.ports[0]))
	return c, c.proxy.Start()
}

func freePort() (int, error) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}

func (c *cluster) start(i int) (err error) {
	n := len(c.servers)
	name := fmt.Sprint("server-", i)
	args := []string{"server", name, filepath.Join(c.dir, name), fmt.Sprint(c.ports[i])}
	if n > 1 {
		var routes []string
		for j := range n {
			routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", c.ports[n+j]))
		}
		args = append(args, fmt.Sprint(c.ports[n+i]), strings.Join(routes, ","))
	}
	c.servers[i], err = start(name, args...)
	return err
}

func (c *cluster) stop() {
	c.proxy.Stop()
	for _, server := range c.servers {
		_ = server.end(syscall.SIGKILL)
	}
}

func (c *cluster) urls() string {
	var urls []string
	for i := range c.servers {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", c.ports[i]))
	}
	return strings.Join(urls, ",")
}

// workersURL leads through the proxy, if there is but one server.
func (c *cluster) workersURL() string {
	if len(c.servers) > 1 {
		return c.urls()
	}
	return fmt.Sprintf("nats://127.0.0.1:%d", c.ports[2])
}

func (c *cluster) connect() (jetstream.JetStream, error) {
	conn, err := nats.Connect(c.urls(), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		return nil, err
	}
	return jetstream.New(conn)
}

// serveNATS is a server's process.
func serveNATS(args []string) error {
	var port, routePort int
	if _, err := fmt.Sscan(args[2], &port); err != nil {
		return err
	}
	opts := &server.Options{ServerName: args[0], Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: args[1]}
	if len(args) > 3 {
		if _, err := fmt.Sscan(args[3], &routePort); err != nil {
			return err
		}
		opts.Cluster = server.ClusterOpts{Name: "chaos", Host: "127.0.0.1", Port: routePort}
		opts.Routes = server.RoutesFromStr(args[4])
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.Start()
	s.WaitForShutdown()
	return nil
}
