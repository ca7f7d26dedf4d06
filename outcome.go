package twiliosync

import "fmt"

// Outcome answers the question that follows every failed call: did it happen?
// Each call ends in exactly one.
type Outcome int

const (
	// OutcomeUnknown means that the request may have reached Sync and no answer says what became of it.
	// Sending the message again may publish it twice. It is the zero value: what isn't proven is unknown.
	OutcomeUnknown Outcome = iota
	// OutcomeNotSent means that no complete request left this process: nothing was published.
	OutcomeNotSent
	// OutcomeRejected means that Sync answered that it did not take the message: nothing was published.
	OutcomeRejected
	// OutcomeAccepted means that Sync took the message. It does not mean that a subscriber received it.
	OutcomeAccepted
)

var outcomeWords = [...]string{"unknown", "not sent", "rejected", "accepted"}

// String returns "unknown", "not sent", "rejected" or "accepted".
func (o Outcome) String() string {
	if o < 0 || int(o) >= len(outcomeWords) {
		return fmt.Sprintf("Outcome(%d)", int(o))
	}
	return outcomeWords[o]
}

// MarshalText returns the word of String, so that JSON and logs show words.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads one of the words of String. Anything else is an error
// and leaves the outcome as it was.
func (o *Outcome) UnmarshalText(text []byte) error {
	for outcome, word := range outcomeWords {
		if string(text) == word {
			*o = Outcome(outcome)
			return nil
		}
	}
	return fmt.Errorf("twiliosync: there is no outcome of this name; use %q, %q, %q or %q",
		outcomeWords[0], outcomeWords[1], outcomeWords[2], outcomeWords[3])
}
