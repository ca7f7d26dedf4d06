package twiliosynctest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"
)

// operation is an operation of the service.
type operation struct {
	id     string // in Twilio's OpenAPI description
	method string
	path   string
	read   func(*exchange) *answer // reads the parameters and returns the first objection to them, or nil
	do     func(*exchange) *answer // takes effect; needs the lock
}

const (
	streamsPath  = "/v1/Services/{service}/Streams"
	streamPath   = "/v1/Services/{service}/Streams/{stream}"
	messagesPath = "/v1/Services/{service}/Streams/{stream}/Messages"
)

// createStreamMessage is the operation that can do without an existing stream.
var createStreamMessage = &operation{"CreateStreamMessage", http.MethodPost, messagesPath, (*exchange).readMessage, (*exchange).createStreamMessage}

// operations is the table that routes all requests.
var operations = []*operation{
	createStreamMessage,
	{"CreateSyncStream", http.MethodPost, streamsPath, (*exchange).readNewStream, (*exchange).createSyncStream},
	{"ListSyncStream", http.MethodGet, streamsPath, (*exchange).readPage, (*exchange).listSyncStream},
	{"FetchSyncStream", http.MethodGet, streamPath, (*exchange).readNothing, (*exchange).fetchSyncStream},
	{"UpdateSyncStream", http.MethodPost, streamPath, (*exchange).readUpdate, (*exchange).updateSyncStream},
	{"DeleteSyncStream", http.MethodDelete, streamPath, (*exchange).readNothing, (*exchange).deleteSyncStream},
}

// checkOperation panics, at the line of the script that is wrong, if there is no operation of this id.
func checkOperation(id string) {
	var ids []string
	for _, operation := range operations {
		if operation.id == id {
			return
		}
		ids = append(ids, operation.id)
	}
	panic(fmt.Sprintf("twiliosynctest: there is no operation %q; the operations are %s", id, strings.Join(ids, ", ")))
}

// route is where a request leads.
type route struct {
	address
	operation *operation // nil: none has this path and method
	methods   []string   // of the operations that have this path
}

// routeOf looks a request up in the table.
func routeOf(r *http.Request) route {
	var found route
	segments := strings.Split(r.URL.EscapedPath(), "/")
	for _, operation := range operations {
		address, matches := parseAddress(operation.path, segments)
		if !matches {
			continue
		}
		found.address = address
		found.methods = append(found.methods, operation.method)
		if operation.method == r.Method {
			found.operation = operation
		}
	}
	return found
}

// address is what a request names in its path: unique names or SIDs, percent-decoded.
type address struct {
	service string
	stream  string // empty if the path has none
}

// parseAddress reads the percent-encoded segments of a path.
func parseAddress(pattern string, segments []string) (address, bool) {
	literals := strings.Split(pattern, "/")
	if len(literals) != len(segments) {
		return address{}, false
	}
	var a address
	for i, segment := range segments {
		value, err := url.PathUnescape(segment)
		switch literals[i] {
		case "{service}":
			a.service = value
		case "{stream}":
			a.stream = value
		case segment:
			continue
		default:
			return address{}, false
		}
		if value == "" || err != nil {
			return address{}, false
		}
	}
	return a, true
}

// canExist reports whether Twilio could have a service and a stream at the address.
func (a address) canExist() bool {
	return canName("IS", a.service) && (a.stream == "" || canName("TO", a.stream))
}

// maxUniqueName is the longest unique name of a stream, in characters.
const maxUniqueName = 320

// sidPattern is the form of a SID. Twilio refuses unique names of this form.
var sidPattern = regexp.MustCompile(`^[A-Z]{2}[a-f0-9]{32}$`)

// canName reports whether id can be the SID, with this prefix, or the unique name of a resource.
func canName(sidPrefix, id string) bool {
	return isSID(sidPrefix, id) || isUniqueName(id)
}

func isSID(prefix, id string) bool {
	return sidPattern.MatchString(id) && strings.HasPrefix(id, prefix)
}

// isUniqueName reports whether a resource can have this name, in a path too.
func isUniqueName(name string) bool {
	return name != "" && name != "." && name != ".." && !sidPattern.MatchString(name) &&
		utf8.ValidString(name) && utf8.RuneCountInString(name) <= maxUniqueName
}

func streamSID(stream string) string { return sidOf("TO", stream) }

// sidOf returns the SID of a resource given by SID or unique name.
func sidOf(prefix, id string) string {
	if isSID(prefix, id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return prefix + hex.EncodeToString(sum[:16])
}

// newSID returns a fresh SID of this prefix.
func newSID(prefix string) string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return prefix + hex.EncodeToString(id[:])
}
