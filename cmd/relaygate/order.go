package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
)

// orderFlags are those of the verbs that change something.
type orderFlags struct {
	clientFlags
	lasts string
	note  string
	keep  bool
}

func (f *orderFlags) add(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&f.note, "note", "", "keep these `WORDS` with it, for why and the journal")
	return f.clientFlags.add(cmd)
}

func (f *orderFlags) addLasts(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.lasts, "for", "", usage)
}

func (f *orderFlags) addKeep(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.keep, "keep-connections", false, "leave SMTP connections in progress alone")
}

// give sends an order and prints what it did. target is an address or prefix,
// "" where the order is for all.
func (f *orderFlags) give(e *env, cmd *cobra.Command, word, target string) error {
	o := control.Order{Verb: word, Note: f.note, KeepConnections: f.keep}
	var err error
	if target != "" {
		if o.Prefix, err = prefixArg(target); err != nil {
			return err
		}
	}
	if cmd.Flags().Changed("for") {
		if o.For.Duration, err = lastsArg(f.lasts); err != nil {
			return err
		}
	}
	out, err := f.client(e).Order(cmd.Context(), o)
	var refusal *control.Refusal
	if errors.As(err, &refusal) {
		return refused(word, target, refusal.Reason)
	}
	if err != nil {
		return err
	}
	if f.json {
		return json.NewEncoder(e.Stdout).Encode(&out)
	}
	fmt.Fprintln(e.Stdout, out.Result)
	for _, w := range out.Warnings {
		fmt.Fprintf(e.Stdout, "%s: %s.\n", colour(e, yellow, "Mind"), w)
	}
	return nil
}

// refused tells why an order was not obeyed, and what would help.
func refused(word, target, reason string) error {
	subject := ""
	for _, predicate := range []string{"is ", "has ", "cannot "} {
		if strings.HasPrefix(reason, predicate) {
			subject = "it "
		}
	}
	help := ""
	switch {
	case strings.HasPrefix(reason, "is denied"):
		help = "; relaygate list --denied shows by which denial, and undeny ends it"
	case strings.HasPrefix(reason, "nothing is granted: paused"):
		help = "; relaygate resume ends that"
	case strings.HasPrefix(reason, "has no denial"):
		help = "; relaygate list --denied shows what is denied"
	}
	return fmt.Errorf("cannot %s %s: %s%s%s", word, target, subject, reason, help)
}

// prefixArg reads an address or a prefix. One with host bits is wrong use: who
// wrote 192.0.2.7/24 may have meant either.
func prefixArg(s string) (netip.Prefix, error) {
	p, err := config.ParsePrefix(s)
	if err == nil {
		p, err = authz.NormalPrefix(p)
	}
	if err != nil {
		return p, &usageError{err}
	}
	return p, nil
}

func lastsArg(s string) (time.Duration, error) {
	d, err := config.ParseDuration(s)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%q is no time to come", s)
	}
	if err != nil {
		return 0, &usageError{err}
	}
	return d, nil
}
