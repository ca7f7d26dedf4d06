package twiliosync

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxIdentifier is the longest unique name, in characters.
// Source: https://www.twilio.com/docs/sync/api/stream-resource
const maxIdentifier = 320

func checkIdentifiers(serviceSID, streamSID string) *ParameterError {
	if reason := identifierFault(serviceSID); reason != "" {
		return &ParameterError{Parameter: "serviceSID", Reason: reason}
	}
	if reason := identifierFault(streamSID); reason != "" {
		return &ParameterError{Parameter: "streamSID", Reason: reason}
	}
	if isSID(serviceSID, "TO") && isSID(streamSID, "IS") {
		return &ParameterError{Parameter: "serviceSID", Reason: "this is a stream SID (TO…) and streamSID is a service SID (IS…); swap them"}
	}
	return nil
}

func identifierFault(s string) string {
	if isUnreserved(s) && s != "" && s[0] != '.' && len(s) <= maxIdentifier { // as most are
		return ""
	}
	switch {
	case s == "":
		return "it is empty; pass a SID or a unique name"
	case hasDotSegment(s):
		return "a dot segment changes the path of the request; pass a SID or a unique name"
	case !utf8.ValidString(s):
		return "it is not valid UTF-8"
	case edgeFault(s) != "":
		return "it " + edgeFault(s) + "; take it off if it doesn't belong to the name"
	case utf8.RuneCountInString(s) > maxIdentifier:
		return fmt.Sprintf("it is longer than %d characters", maxIdentifier)
	}
	return ""
}

// hasDotSegment looks between slashes too: some proxies resolve them even
// where they are percent-encoded.
func hasDotSegment(s string) bool {
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// identifierRefusal checks an identifier that stands in a path.
func identifierRefusal(parameter, identifier string) *ParameterError {
	if reason := identifierFault(identifier); reason != "" {
		return &ParameterError{Parameter: parameter, Reason: reason}
	}
	return nil
}

// isSID tells a SID, which is a prefix and 32 hexadecimal digits, from a name.
func isSID(s, prefix string) bool {
	digits, ok := strings.CutPrefix(s, prefix)
	return ok && len(digits) == 32 && strings.Trim(digits, "0123456789abcdefABCDEF") == ""
}

// edgeFault names what doesn't belong into a name or a secret: space or
// invisible characters at its ends, and control characters anywhere.
func edgeFault(s string) string {
	first, _ := utf8.DecodeRuneInString(s)
	last, _ := utf8.DecodeLastRuneInString(s)
	switch {
	case isEdge(first):
		return "begins with " + nameOf(first)
	case isEdge(last):
		return "ends with " + nameOf(last)
	case strings.ContainsFunc(s, unicode.IsControl):
		return "has a control character"
	}
	return ""
}

func nameOf(r rune) string {
	switch {
	case r == '\n' || r == '\r':
		return "a line break"
	case unicode.IsSpace(r):
		return "a space"
	}
	return fmt.Sprintf("the invisible character U+%04X", r)
}

func isEdge(r rune) bool { return unicode.IsSpace(r) || isInvisible(r) }

// isInvisible tells the characters that a page or an editor adds unseen: byte
// order mark, zero-width and joining characters, soft hyphen, direction marks.
func isInvisible(r rune) bool {
	return r == 0xFEFF || r >= 0x200B && r <= 0x200F || r == 0x2060 || r == 0x00AD || r >= 0x202A && r <= 0x202E
}
