package emulator

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// The emulator's credentials are public, and it listens where every browser of the machine can reach it. So a web page
// that somebody visits must neither read what is published nor change anything. Browsers say which page asks (Origin,
// Sec-Fetch-Site), and under which name they know the server (Host), which gives away a page that has made its own name
// lead to 127.0.0.1 (DNS rebinding). Programs that aren't browsers send neither, and aren't concerned.

// guard refuses requests of foreign web pages.
func guard(next http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		switch {
		case r.URL.Path == "/_emulator/health":
		case !unclaimable(hostname(r.Host)):
			problem(w, http.StatusForbidden, "Host", "the emulator doesn't answer to this host name, which a web page elsewhere could have "+
				"made lead here; use an IP address, localhost, or a name without dots such as a container's")
			return
		case r.URL.Path == websocketPath:
			if !trustedOrigin(r) {
				problem(w, http.StatusForbidden, "Origin", "a web page may use the websocket only if it comes from this machine, such as http://localhost:3000")
				return
			}
		case crossOrigin.Check(r) != nil:
			problem(w, http.StatusForbidden, "Origin", "a web page of another origin can't use this; programs can, and the emulator's own page")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// trustedOrigin reports whether a page may use the websocket, which browsers open for all pages: those served on this
// machine, where the page under development is, and those from the emulator's own host.
func trustedOrigin(r *http.Request) bool {
	values := r.Header.Values("Origin")
	if len(values) == 0 {
		return true // not a browser
	}
	origin, err := url.Parse(values[0])
	if err != nil || len(values) > 1 || origin.Hostname() == "" {
		return false // also "null", which is any sandboxed page
	}
	return isLoopback(origin.Hostname()) || strings.EqualFold(origin.Hostname(), hostname(r.Host))
}

// hostname returns the host without a port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

// isLoopback reports whether a host can only be this machine.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	host = strings.ToLower(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && ip.Unmap().IsLoopback()
}

// reservedNames are the ends of names that nobody can register (RFC 2606, 6761, 6762, and ICANN for internal).
var reservedNames = []string{"localhost", "test", "example", "invalid", "local", "internal", "example.com"}

// unclaimable reports whether no stranger can make the host name lead here: it is an IP address, a name without dots, as
// containers have, or under a reserved name.
func unclaimable(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(host, ".") {
		return true
	}
	return slices.ContainsFunc(reservedNames, func(name string) bool {
		return strings.HasSuffix("."+strings.ToLower(strings.TrimSuffix(host, ".")), "."+name)
	})
}
