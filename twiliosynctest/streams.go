package twiliosynctest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// maxUniqueName is the longest unique name of a stream, in characters.
const maxUniqueName = 320

// sidPattern is the form of a SID. Twilio refuses unique names of this form.
var sidPattern = regexp.MustCompile(`^[A-Z]{2}[a-f0-9]{32}$`)

// address is the service and the stream that a request names in its path.
type address struct {
	service, stream string // decoded: unique names or SIDs
	streamSID       string
}

// parseAddress reads a percent-encoded path.
func parseAddress(escapedPath string) (address, bool) {
	segments := strings.Split(escapedPath, "/")
	if len(segments) != 7 || segments[0] != "" || segments[1] != "v1" || segments[2] != "Services" ||
		segments[4] != "Streams" || segments[6] != "Messages" {
		return address{}, false
	}
	service, serviceErr := url.PathUnescape(segments[3])
	stream, streamErr := url.PathUnescape(segments[5])
	if serviceErr != nil || streamErr != nil || service == "" || stream == "" {
		return address{}, false
	}
	return address{service, stream, streamSID(stream)}, true
}

// canExist reports whether Twilio could have a service and a stream at the address.
func (a address) canExist() bool {
	return canName("IS", a.service) && canName("TO", a.stream)
}

// canName reports whether id can be the SID, with this prefix, or the unique name of a resource.
func canName(sidPrefix, id string) bool {
	if sidPattern.MatchString(id) {
		return strings.HasPrefix(id, sidPrefix)
	}
	return id != "." && id != ".." && utf8.ValidString(id) && utf8.RuneCountInString(id) <= maxUniqueName
}

// streamSID returns the SID of a stream given by SID or unique name.
func streamSID(stream string) string {
	if sidPattern.MatchString(stream) && strings.HasPrefix(stream, "TO") {
		return stream
	}
	sum := sha256.Sum256([]byte(stream))
	return "TO" + hex.EncodeToString(sum[:16])
}

// newSID returns a fresh SID of this prefix.
func newSID(prefix string) string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return prefix + hex.EncodeToString(id[:])
}

// stream is what the server keeps of a stream.
type stream struct {
	messages []Message
	changed  chan struct{} // closed at the next message; nil while nobody waits
}

func (st *stream) add(message Message) {
	st.messages = append(st.messages, message)
	if st.changed != nil {
		close(st.changed)
		st.changed = nil
	}
}

// rateLimit allows a number of messages in any window of time. The zero value allows all.
type rateLimit struct {
	messages int
	window   time.Duration
}

// windowKey is what the rate is counted for.
type windowKey struct{ service, streamSID string }

// window holds the times of the last messages that a rateLimit allowed, as a ring.
type window struct {
	times  []time.Time
	oldest int
}

// allow reports whether a message may pass now, and if so counts it.
func (l rateLimit) allow(w *window, now time.Time) bool {
	if len(w.times) < l.messages {
		w.times = append(w.times, now)
		return true
	}
	if now.Sub(w.times[w.oldest]) < l.window {
		return false
	}
	w.times[w.oldest] = now
	w.oldest = (w.oldest + 1) % l.messages
	return true
}
