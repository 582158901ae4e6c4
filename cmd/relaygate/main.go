// Command relaygate watches POP3 and IMAP logins on the wire and opens SMTP
// relaying for the addresses that proved one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// version is set when the program is linked.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, systemEnv(), os.Args[1:])
	stop()
	os.Exit(exitCode(err))
}

// env is what the program has from outside. Tests bring their own.
type env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// OutTerminal and ErrTerminal say whether a person looks at them.
	OutTerminal, ErrTerminal bool
	// ErrJournal says that Stderr is read by the journal, line by line with a priority.
	ErrJournal bool
	// OutWidth is how many columns the terminal has, 0 if nobody looks at it.
	OutWidth int
	Now      func() time.Time
	Getenv   func(string) string
}

func systemEnv() *env {
	columns, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil { // it is no terminal
		columns = 0
	}
	toJournal, _ := journal.StderrIsJournalStream() // an error: JOURNAL_STREAM is no journal's
	return &env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		OutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		ErrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
		ErrJournal:  toJournal,
		OutWidth:    columns,
		Now:         time.Now,
		Getenv:      os.Getenv,
	}
}

// The exit codes besides 0.
const (
	exitFailed   = 1
	exitWrongUse = 2
)

// failure is an error of a verb that was used rightly. Its text has been
// printed already if silent.
type failure struct {
	err    error
	code   int
	silent bool
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func exitCode(err error) int {
	var f *failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &f):
		return f.code
	}
	return exitWrongUse
}

// rootCommand is the command line.
func rootCommand(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:           "relaygate",
		Short:         "Open SMTP relaying for addresses that proved a POP3 or IMAP login",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Usage()
			return errors.New("name a verb")
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(folded(e).Stdout)
	root.SetErr(e.Stderr)
	root.SetIn(e.Stdin)
	root.AddCommand(replayCommand(e), runCommand(e), checkCommand(e), listCommand(e), whyCommand(e),
		doctorCommand(e), statusCommand(e), watchCommand(e), demoCommand(e), completionCommand(e))
	for i := range orderVerbs {
		root.AddCommand(orderCommand(e, &orderVerbs[i]))
	}
	complete(e, root)
	return root
}

// run is the whole program.
func run(ctx context.Context, e *env, args []string) error {
	out := &output{Writer: e.Stdout}
	with := *e
	with.Stdout = out
	root := rootCommand(&with)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil && out.err != nil {
		err = &failure{err: fmt.Errorf("write the output: %w", out.err), code: exitFailed}
	}
	var f *failure
	switch {
	case err == nil:
	case !errors.As(err, &f):
		e.complain(fmt.Sprintf("%v (see %s --help)", err, cmd.CommandPath()))
	case !f.silent:
		e.complain(err.Error())
	}
	return err
}

// complain says why the program failed.
func (e *env) complain(words string) {
	priority := ""
	if e.ErrJournal {
		priority = "<3>" // an error: sd-daemon(3)
	}
	fmt.Fprintln(e.Stderr, priority+"relaygate: "+strings.ReplaceAll(words, "\n", "\n"+priority))
}

// output keeps the first error of what is written, so that no verb need look at each
// line of its own.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// takes checks how many arguments a verb is given, and says in words what it takes.
func takes(what string, least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return fmt.Errorf("%s needs %s", cmd.Name(), what)
		case len(args) > most && most == 0:
			return fmt.Errorf("%s takes no argument: what is %q?", cmd.Name(), args[0])
		case len(args) > most:
			return fmt.Errorf("%s takes %s: what is %q?", cmd.Name(), what, args[most])
		}
		return nil
	}
}

// verb marks the errors of f as failures, apart from wrong use.
func verb(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := f(cmd, args)
		var already *failure
		var use *usageError
		if err == nil || errors.As(err, &already) || errors.As(err, &use) {
			return err
		}
		return &failure{err: err, code: exitFailed}
	}
}

// usageError is wrong use that a verb found itself.
type usageError struct{ error }
