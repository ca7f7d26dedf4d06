//go:build !plan9

package twiliosync_test

import "syscall"

// errRefused is what a dialer says of a port that nobody listens on.
var errRefused error = syscall.ECONNREFUSED
