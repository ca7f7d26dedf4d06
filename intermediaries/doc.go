// Package intermediaries has no code: its tests publish through real proxies
// and load balancers (nginx, HAProxy, Varnish, Squid) on loopback, and compare
// what the SDK says of each message with what the service behind them has
// handled. They need Debian's packages nginx, haproxy, varnish and squid, and
// skip by name what is not installed.
package intermediaries
