package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/twiliosync/twiliosync-go/relay"
)

func (r *relayApp) deadLettersCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dlq",
		Short: "List, requeue and delete dead letters",
		Args:  takesCommand,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(r.listLettersCommand(),
		r.lettersCommand("requeue", "Write dead letters into the log again, behind the others of their streams", relay.DeadLetter.Requeue),
		r.lettersCommand("delete", "Delete dead letters for good, without a question", relay.DeadLetter.Delete))
	return c
}

// selection says which dead letters are meant.
type selection struct {
	ids       []string
	sequences []uint
	all       bool
	reason    string
}

func (r *relayApp) listLettersCommand() *cobra.Command {
	s := selection{all: true}
	c := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, the oldest first; with -o json, also their data",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return r.with(looksIn, func(ctx context.Context, js jetstream.JetStream) error {
				if !r.json() {
					fmt.Fprintln(r.Out, "SEQUENCE\tID\tSTREAM\tOUTCOME\tREASON\tTIME")
				}
				for letter, err := range relay.DeadLetters(ctx, js, r.config) {
					if err != nil {
						return err
					}
					if !s.has(letter) {
						continue
					}
					if err := r.printLetter(letter, fmt.Sprintf("%d\t%s\t%s\t%s\t%s\t%s", letter.Sequence, cell(letter.ID), cell(letter.StreamSID), letter.Outcome, cell(letter.Reason), letter.Time.UTC().Format(time.RFC3339))); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	reasonFlag(c, &s)
	return c
}

// lettersCommand does something with dead letters, and prints with which.
func (r *relayApp) lettersCommand(name, short string, do func(relay.DeadLetter, context.Context) error) *cobra.Command {
	var s selection
	c := &cobra.Command{
		Use:   name + " --id ID|--sequence N|--all",
		Short: short,
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			switch chosen := len(s.ids) + len(s.sequences); {
			case chosen == 0 && !s.all:
				return wrongUsage("say which dead letters: --id, --sequence or --all")
			case chosen > 0 && s.all:
				return wrongUsage("--all leaves nothing to choose; use it alone, or --id and --sequence")
			}
			return r.with(looksIn, func(ctx context.Context, js jetstream.JetStream) error { return r.onLetters(ctx, js, s, do) })
		},
	}
	c.Flags().StringArrayVar(&s.ids, "id", nil, "`ID` of a message; may be repeated")
	c.Flags().UintSliceVar(&s.sequences, "sequence", nil, "`number` of a dead letter, as list shows it; may be repeated")
	c.Flags().BoolVar(&s.all, "all", false, "all that there are, or all with this --reason")
	reasonFlag(c, &s)
	return c
}

func reasonFlag(c *cobra.Command, s *selection) {
	c.Flags().StringVar(&s.reason, "reason", "", "only those with this `text` in their reason")
}

func (s selection) has(letter relay.DeadLetter) bool {
	chosen := s.all || slices.Contains(s.ids, letter.ID) || slices.Contains(s.sequences, uint(letter.Sequence))
	return chosen && strings.Contains(letter.Reason, s.reason)
}

func (r *relayApp) onLetters(ctx context.Context, js jetstream.JetStream, s selection, do func(relay.DeadLetter, context.Context) error) error {
	failed := false
	ids, sequences := slices.Clone(s.ids), slices.Clone(s.sequences) // not met yet
	for letter, err := range relay.DeadLetters(ctx, js, r.config) {
		if err != nil {
			return err
		}
		if !s.has(letter) {
			continue
		}
		ids = slices.DeleteFunc(ids, func(id string) bool { return id == letter.ID })
		sequences = slices.DeleteFunc(sequences, func(n uint) bool { return n == uint(letter.Sequence) })
		if err := do(letter, ctx); err != nil {
			failed = true
			fmt.Fprintf(r.Err, "dead letter %d (%s): %v\n", letter.Sequence, cell(letter.ID), r.explained(err))
			continue
		}
		if err := r.printLetter(letter, fmt.Sprintf("%d\t%s", letter.Sequence, cell(letter.ID))); err != nil {
			return err
		}
	}
	for _, id := range ids {
		fmt.Fprintf(r.Err, "there is no such dead letter with the ID %s\n", cell(id))
	}
	for _, n := range sequences {
		fmt.Fprintf(r.Err, "there is no such dead letter with the sequence %d\n", n)
	}
	if failed || len(ids)+len(sequences) > 0 {
		return errSaid
	}
	return nil
}

// printLetter prints a dead letter as a line of text, or as JSON.
func (r *relayApp) printLetter(letter relay.DeadLetter, line string) error {
	if !r.json() {
		_, err := fmt.Fprintln(r.Out, line)
		return err
	}
	data, ok := letter.Data.(json.RawMessage)
	if !ok {
		return errors.New("the data of a dead letter is no text")
	}
	value := any(data)
	if !json.Valid(data) { // another program's; Sync would have refused it
		value = string(data)
	}
	return r.printJSON(map[string]any{
		"sequence": letter.Sequence, "id": letter.ID, "service": letter.ServiceSID, "stream": letter.StreamSID,
		"outcome": letter.Outcome, "reason": letter.Reason, "time": letter.Time, "data": value,
	})
}
