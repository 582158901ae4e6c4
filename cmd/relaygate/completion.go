package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relaygate/authz"
)

// shells are those that can complete a command line, by what writes their script.
var shells = map[string]func(root *cobra.Command, e *env) error{
	"bash": func(root *cobra.Command, e *env) error { return root.GenBashCompletionV2(e.Stdout, true) },
	"zsh":  func(root *cobra.Command, e *env) error { return root.GenZshCompletion(e.Stdout) },
	"fish": func(root *cobra.Command, e *env) error { return root.GenFishCompletion(e.Stdout, true) },
}

func completionCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print what lets a shell complete the command line",
		Long: `Print the script that lets a shell complete verbs, options and addresses. The
packages and make install put it in its place; to try it in this shell:`,
		Example:   `  source <(relaygate completion bash)`,
		Args:      takes("the name of a shell: bash, zsh or fish", 1, 1),
		ValidArgs: []cobra.Completion{"bash", "zsh", "fish"},
		RunE: verb(func(cmd *cobra.Command, args []string) error {
			script := shells[args[0]]
			if script == nil {
				return &usageError{fmt.Errorf("there is nothing for %q: name bash, zsh or fish", args[0])}
			}
			return script(cmd.Root(), e)
		}),
	}
}

// complete says what can stand behind each verb and option. Of what the daemon knows
// addresses alone are offered: names are text of strangers.
func complete(e *env, root *cobra.Command) {
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "check", "replay": // files, as the shell does it
		case "why", "revoke":
			cmd.ValidArgsFunction = known(e, (*clientFlags).granted)
		case "undeny":
			cmd.ValidArgsFunction = known(e, (*clientFlags).denied)
		default:
			if cmd.ValidArgs == nil {
				cmd.ValidArgsFunction = cobra.NoFileCompletions
			}
		}
		for name, words := range map[string][]cobra.Completion{"for": {"30m", "2h", "24h", "7d"}, "note": nil, "pop3": nil, "imap": nil} {
			if cmd.Flags().Lookup(name) != nil {
				_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // it fails for no flag
			}
		}
	}
}

const (
	// completeWithin is how long a shell waits for the daemon.
	completeWithin = time.Second
	// mostOffered bounds what is offered: nobody reads more.
	mostOffered = 500
)

// known offers addresses that the daemon knows, none where it does not answer.
func known(e *env, ask func(*clientFlags, context.Context, *env) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) (list []cobra.Completion, _ cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var flags clientFlags
		for name, value := range map[string]*string{"socket": &flags.socket, "config": &flags.config} {
			if f := cmd.Flags().Lookup(name); f != nil {
				*value = f.Value.String()
			}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		for _, name := range ask(&flags, ctx, e) {
			if strings.HasPrefix(name, begun) && len(list) < mostOffered {
				list = append(list, name)
			}
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// granted and denied are the addresses and prefixes of list; an error offers none.
func (f *clientFlags) granted(ctx context.Context, e *env) (names []string) {
	grants, _ := f.client(e).Grants(ctx)
	for i := range grants {
		names = append(names, grants[i].Name())
	}
	return names
}

func (f *clientFlags) denied(ctx context.Context, e *env) (names []string) {
	denials, _ := f.client(e).Denials(ctx)
	for i := range denials {
		names = append(names, authz.PrefixString(denials[i].Prefix))
	}
	return names
}
