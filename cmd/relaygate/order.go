package main

import (
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

// orderVerb is a verb that changes something.
type orderVerb struct {
	name, short, long, example string
	all                        bool   // it is for all, else for an address or prefix
	lasts                      string // what --for says of itself, "" where there is none
	cuts                       bool   // connections in progress, but with --keep-connections
}

var orderVerbs = []orderVerb{
	{
		name:  "grant",
		short: "Let an address relay for a while, by hand",
		long: `Let an address or a prefix relay for a while, without a login.

The rules hold all the same: what is denied, never granted by the configuration,
or one of this host's own addresses is refused.`,
		example: `  relaygate grant 192.0.2.7 --for 2h --note "new printer, ticket 4711"`,
		lasts:   "how `LONG`, like 90s, 2h, 7d (default: as long as a login)",
	},
	{
		name:  "revoke",
		short: "Close an address now",
		long: `Close an address, or all of a prefix, now: its grants end, and so do its SMTP
connections in progress. The next login opens it again; deny is what lasts.`,
		cuts: true,
	},
	{
		name:  "deny",
		short: "Close an address now and keep it closed",
		long: `Close an address, or all of a prefix, now, and grant it nothing while the denial
lasts: not by a login, not by hand, not by an always rule. undeny ends it.`,
		example: `  relaygate deny 203.0.113.0/24 --for 24h --note "sends spam"`,
		lasts:   "how `LONG`, like 90s, 2h, 7d (default: for good)",
		cuts:    true,
	},
	{
		name:  "undeny",
		short: "End a denial",
		long: `End the denial of exactly this address or prefix. Nothing is opened by that but
what an always rule names: the next login may be granted.`,
	},
	{
		name:  "pause",
		short: "Close everybody but the always rules, until resume",
		long: `Close everybody but the always rules, and grant nothing, until resume. The files
are emptied too. It lasts over a restart.`,
		all: true,
	},
	{
		name:  "resume",
		short: "End the pause",
		long:  `End the pause. What was open before it stays closed until its next login.`,
		all:   true,
	},
	{
		name:  "reload",
		short: "Read the configuration again",
		long: `Read the configuration again, and put all of it in force. If that cannot be, the
former one stays, all of it: then this fails and says why.`,
		all: true,
	},
}

func orderCommand(e *env, v *orderVerb) *cobra.Command {
	var flags orderFlags
	cmd := flags.add(&cobra.Command{
		Use: v.name + " ADDRESS|PREFIX", Short: v.short, Long: v.long, Example: v.example,
		Args: takes("an ADDRESS or PREFIX", 1, 1),
		RunE: verb(func(cmd *cobra.Command, args []string) error {
			target := ""
			if !v.all {
				target = args[0]
			}
			return flags.give(e, cmd, v.name, target)
		}),
	})
	if v.all {
		cmd.Use, cmd.Args = v.name, takes("", 0, 0)
	}
	if v.lasts != "" {
		cmd.Flags().StringVar(&flags.lasts, "for", "", v.lasts)
	}
	if v.cuts {
		cmd.Flags().BoolVar(&flags.keep, "keep-connections", false, "leave SMTP connections in progress alone")
	}
	return cmd
}

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
	if refusal, ok := errors.AsType[*control.Refusal](err); ok {
		return refused(word, target, refusal.Reason)
	}
	if err != nil {
		return f.unheard(err)
	}
	if f.json {
		return printJSON(e, out)
	}
	e = folded(e)
	e.say("%s", out.Result)
	for _, w := range out.Warnings {
		e.say("%s: %s.", colour(e, yellow, "Mind"), w)
	}
	return nil
}

// unheard is err, and what the configuration has to do with a daemon that does not answer:
// one with mistakes may not say where it is asked.
func (f *orderFlags) unheard(err error) error {
	d, failed := f.absent(err)
	if failed != nil {
		return failed
	}
	if d.Mistakes != nil {
		return fmt.Errorf("%w; the configuration has mistakes: %w", err, d.Mistakes)
	}
	return err
}

// refused tells why an order was not obeyed, and what would help.
func refused(word, target, reason string) error {
	if target == "" {
		return errors.New(reason)
	}
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
	if err == nil && d < time.Second { // what is next to nothing may be nothing on its way: that is for ever
		err = fmt.Errorf("%q is less than a second", s)
	}
	if err != nil {
		return 0, &usageError{err}
	}
	return d, nil
}
