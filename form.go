package twiliosync

import (
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-querystring/query"
)

// encodeForm makes the form, or the query, of a parameters struct. It gives
// the bytes of url.Values.Encode, in one pass.
func encodeForm(params any) ([]byte, error) {
	values, err := query.Values(params)
	if err != nil {
		return nil, err
	}
	return appendForm(nil, values), nil
}

func appendForm(form []byte, values url.Values) []byte {
	names := make([]string, 0, len(values))
	size := 0
	for name, list := range values {
		names = append(names, name)
		for _, value := range list {
			size += len("&=") + escapedLen(name) + escapedLen(value)
		}
	}
	slices.Sort(names)
	form = slices.Grow(form, size)
	for _, name := range names {
		for _, value := range values[name] {
			if len(form) > 0 {
				form = append(form, '&')
			}
			form = appendEscaped(form, name)
			form = append(form, '=')
			form = appendEscaped(form, value)
		}
	}
	return form
}

// escapes has how many bytes more a form shows of each byte: none of those that
// are unreserved, and of the space, which it shows as +.
var escapes = func() (table [256]uint8) {
	for c := range table {
		table[c] = 2
	}
	for _, c := range []byte(" ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~") {
		table[c] = 0
	}
	return table
}()

func isUnreserved(s string) bool { return escapedLen(s) == len(s) && !strings.Contains(s, " ") }

func escapedLen(s string) int {
	n := len(s)
	for i := range len(s) {
		n += int(escapes[s[i]])
	}
	return n
}

func appendEscaped(form []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	n := len(form)
	form = form[:cap(form)] // which has room
	for i := range len(s) {
		switch c := s[i]; {
		case escapes[c] != 0:
			form[n], form[n+1], form[n+2] = '%', hex[c>>4], hex[c&15]
			n += 3
		case c == ' ':
			form[n] = '+'
			n++
		default:
			form[n] = c
			n++
		}
	}
	return form[:n]
}

// rawValue is a form value that goes out as it is. Left to itself,
// go-querystring would look into it.
type rawValue string

// EncodeValues sets the value.
func (v rawValue) EncodeValues(key string, values *url.Values) error {
	values.Set(key, string(v))
	return nil
}
