package twiliosync

import (
	"net/url"
	"slices"

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

// unreserved has the bytes that a form shows as they are.
var unreserved = func() (table [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~") {
		table[c] = true
	}
	return table
}()

func isUnreserved(s string) bool {
	for i := range len(s) {
		if !unreserved[s[i]] {
			return false
		}
	}
	return true
}

func escapedLen(s string) int {
	n := len(s)
	for i := range len(s) {
		if c := s[i]; !unreserved[c] && c != ' ' {
			n += 2
		}
	}
	return n
}

func appendEscaped(form []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case unreserved[c]:
			form = append(form, c)
		case c == ' ':
			form = append(form, '+')
		default:
			form = append(form, '%', hex[c>>4], hex[c&15])
		}
	}
	return form
}

// rawValue is a form value that goes out as it is. Left to itself,
// go-querystring would look into it.
type rawValue string

// EncodeValues sets the value.
func (v rawValue) EncodeValues(key string, values *url.Values) error {
	values.Set(key, string(v))
	return nil
}
