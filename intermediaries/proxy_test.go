package intermediaries

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// proxy is a running intermediary.
type proxy struct {
	address string // host and port
	process *os.Process
	reload  syscall.Signal // 0: it can't
}

// start runs a program on a configuration in which {dir}, {port} and {service}
// are replaced, and waits until it listens.
func start(t *testing.T, name, config string, arguments []string, reload syscall.Signal, backend string) *proxy {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
	dir, err := os.MkdirTemp("", "intermediary")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	port := freePort(t)
	fill := strings.NewReplacer("{dir}", dir, "{port}", fmt.Sprint(port), "{service}", backend)
	file := filepath.Join(dir, "config")
	require.NoError(t, os.WriteFile(file, []byte(fill.Replace(config)), 0o644))
	for i, argument := range arguments {
		arguments[i] = fill.Replace(strings.ReplaceAll(argument, "{config}", file))
	}
	output, err := os.Create(filepath.Join(dir, "output")) // a file: helpers that outlive the program would keep a pipe open
	require.NoError(t, err)
	defer output.Close()
	command := exec.Command(program, arguments...)
	command.Stdout, command.Stderr, command.Dir = output, output, dir
	require.NoError(t, command.Start())
	ended := make(chan struct{})
	go func() {
		command.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		command.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			command.Process.Kill()
			<-ended
		}
	})
	p := &proxy{address: fmt.Sprintf("127.0.0.1:%d", port), process: command.Process, reload: reload}
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", p.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, 20*time.Second, 50*time.Millisecond, "%s doesn't listen", name)
	return p
}

// nginx runs with extra lines in its server.
func nginx(server string) func(*testing.T, string) *proxy {
	return func(t *testing.T, backend string) *proxy {
		return start(t, "nginx", `
daemon off;
error_log {dir}/error.log;
pid {dir}/pid;
events {}
http {
	access_log off;
	client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
	limit_req_zone $binary_remote_addr zone=all:1m rate=300r/s;
	upstream service { server {service}; keepalive 16; }
	server {
		listen 127.0.0.1:{port};
		location / { proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ""; `+server+` }
		location /page { return 503 "<html>maintenance</html>"; }
	}
}`, []string{"-c", "{config}", "-e", "{dir}/error.log"}, syscall.SIGHUP, backend)
	}
}

// haproxy runs with extra lines in its defaults.
func haproxy(defaults string) func(*testing.T, string) *proxy {
	return func(t *testing.T, backend string) *proxy {
		return start(t, "haproxy", `
defaults
	mode http
	timeout connect 2s
	timeout client 10s
	timeout server 300ms
	`+defaults+`
frontend in
	bind 127.0.0.1:{port}
	default_backend service
backend service
	server a {service}
`, []string{"-W", "-db", "-f", "{config}"}, syscall.SIGUSR2, backend)
	}
}

func varnish(t *testing.T, backend string) *proxy {
	return start(t, "varnishd", "", []string{"-F", "-n", "{dir}/work", "-a", "127.0.0.1:{port}", "-b", backend, "-s", "malloc,16m"}, 0, backend)
}

// squid runs with its own rules before the last one.
func squid(rules string) func(*testing.T, string) *proxy {
	return func(t *testing.T, backend string) *proxy {
		return start(t, "squid", `
pid_filename {dir}/pid
access_log none
cache_log {dir}/cache.log
cache deny all
coredump_dir {dir}
shutdown_lifetime 0 seconds
`+strings.ReplaceAll(rules, "{peer}", peer(backend))+`
`, []string{"-N", "-f", "{config}"}, 0, backend)
	}
}

func peer(backend string) string {
	host, port, _ := net.SplitHostPort(backend)
	return host + " parent " + port + " 0 no-query originserver"
}
