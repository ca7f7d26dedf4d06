package twiliosync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"time"
)

// sentinel is the type of this package's own errors for errors.Is. No foreign
// error matches one.
type sentinel struct{ text string }

func (s *sentinel) Error() string { return "twiliosync: " + s.text }

// contextError says that the caller's context ended the call. The type tells
// it from the timeouts of the network, many of which match
// context.DeadlineExceeded too. It matches what ctx.Err() returned and nothing
// of the context's cause, which may be the error of another call.
type contextError struct {
	err        error
	text       string
	retryAfter time.Duration // how long the wait would have been that the deadline didn't allow
}

func newContextError(ctx context.Context) *contextError {
	cause := context.Cause(ctx)
	if callers, ok := cause.(*contextError); ok { //nolint:errorlint // itself: a cause that wraps one is the error of another call
		return callers // of the caller of CreateAll or a Publisher
	}
	e := &contextError{err: ctx.Err()}
	e.text = e.err.Error()
	if cause != nil && !errors.Is(cause, e.err) {
		e.text += " (cause: " + cause.Error() + ")"
	}
	return e
}

func (e *contextError) Error() string { return e.text }
func (e *contextError) Unwrap() error { return e.err }

func endedByContext(err error) bool {
	var ended *contextError
	return errors.As(err, &ended)
}

// timeoutError is the end of an attempt's time. It is a net.Error, and does not
// match context.DeadlineExceeded: that is the caller's own deadline.
type timeoutError struct{ limit time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("no complete answer within %v (the timeout of an attempt)", e.limit)
}
func (e *timeoutError) Timeout() bool   { return true }
func (e *timeoutError) Temporary() bool { return true }

// foreignError is what the network, a transport, an Authenticator or the
// caller's MarshalJSON said. It shows its text, and matches identical errors
// and the network's types of the standard library; it never lends a type of
// this package, or a context's error, to a call it says nothing of.
type foreignError struct {
	text  string
	err   error // nil if it could show what the text must not
	later bool  // of a request that was not sent: the next attempt may get through
}

func (e *foreignError) Error() string { return e.text }

// Is matches what the error wraps, except for this package's own errors and those of a context.
func (e *foreignError) Is(target error) bool {
	_, ours := target.(*sentinel)
	return !ours && target != context.DeadlineExceeded && target != context.Canceled && errors.Is(e.err, target)
}

// As finds the errors of the standard library's network packages.
func (e *foreignError) As(target any) bool {
	wanted := reflect.TypeOf(target).Elem()
	if wanted.Kind() == reflect.Pointer {
		wanted = wanted.Elem()
	}
	switch wanted.PkgPath() {
	case "net", "os", "io/fs", "syscall", "crypto/tls", "crypto/x509":
		return errors.As(e.err, target)
	}
	return false
}

// Timeout tells whether the network gave up waiting. With Temporary it makes a net.Error.
func (e *foreignError) Timeout() bool {
	var timeout net.Error
	return errors.As(e.err, &timeout) && timeout.Timeout()
}

// Temporary is the other half of net.Error.
func (e *foreignError) Temporary() bool { return e.later }

// mayPassLater tells whether a request that was not sent may get through later.
func mayPassLater(err error) bool {
	var timeout *timeoutError
	var foreign *foreignError
	return errors.As(err, &timeout) || errors.As(err, &foreign) && foreign.later
}

// proxyError is a proxy's refusal to open a tunnel.
type proxyError struct{ statusCode int }

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy refused the tunnel with status %d", e.statusCode)
}

// brokenConnection tells a connection that failed from a peer that refused.
func brokenConnection(err error) bool {
	var timeout net.Error
	var system *os.SyscallError
	return errors.As(err, &timeout) && timeout.Timeout() || errors.As(err, &system) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// refusedBySOCKS tells a SOCKS proxy that will refuse the next attempt too from
// one that couldn't reach the target. net/http has no types for it.
func refusedBySOCKS(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || !strings.HasPrefix(op.Op, "socks") || brokenConnection(op.Err) {
		return false
	}
	text := op.Err.Error()
	for _, temporary := range []string{"general SOCKS server failure", "network unreachable", "host unreachable", "connection refused", "TTL expired"} {
		if strings.Contains(text, temporary) {
			return false
		}
	}
	return true
}
