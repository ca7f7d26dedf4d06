package twiliosync_test

import "syscall"

var errRefused error = syscall.NewError("connection refused")
