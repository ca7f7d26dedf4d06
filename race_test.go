//go:build race

package twiliosync_test

const raceEnabled = true
