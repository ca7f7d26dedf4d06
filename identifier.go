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

// checkIdentifiers checks those in the path of a stream. The second has the
// name parameter.
func checkIdentifiers(serviceSID, parameter, streamSID string) *ParameterError {
	if refusal := identifierRefusal("serviceSID", serviceSID); refusal != nil {
		return refusal
	}
	if refusal := identifierRefusal(parameter, streamSID); refusal != nil {
		return refusal
	}
	if isSID(serviceSID, "TO") && isSID(streamSID, "IS") {
		return &ParameterError{Parameter: "serviceSID", Reason: "this is a stream SID (TO…) and " + parameter + " is a service SID (IS…); swap them"}
	}
	return nil
}

// identifierRefusal checks one identifier.
func identifierRefusal(parameter, identifier string) *ParameterError {
	if reason := identifierFault(identifier); reason != "" {
		return &ParameterError{Parameter: parameter, Reason: reason}
	}
	return nil
}

// uniqueNameRefusal checks the name of a new object, which Sync refuses if it
// looks like a SID.
func uniqueNameRefusal(parameter, name string) *ParameterError {
	if len(name) > 2 && strings.Trim(name[:2], "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" && isSID(name, name[:2]) {
		return &ParameterError{Parameter: parameter, Reason: "it looks like a SID, which no unique name may; pass another name"}
	}
	return identifierRefusal(parameter, name)
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
