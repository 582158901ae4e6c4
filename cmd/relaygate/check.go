package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"relaygate/cmd/relaygate/internal/config"
)

func checkCommand(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file and tell what it means",
		Args:  takes("a FILE", 1, 1),
		RunE: verb(func(_ *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0])
			if asJSON {
				return checkJSON(e, cfg, err)
			}
			if err != nil {
				return err
			}
			for _, line := range cfg.Words() {
				fmt.Fprintln(folded(e).Stdout, line)
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// mistake is one error of a configuration file.
type mistake struct {
	File  string `json:"file"`
	Line  int    `json:"line,omitempty"`
	Key   string `json:"key,omitempty"`
	Error string `json:"error"`
}

// checked is what check --json prints.
type checked struct {
	OK     bool      `json:"ok"`
	Errors []mistake `json:"errors"`
	Means  []string  `json:"means"`
}

func checkJSON(e *env, cfg *config.Config, err error) error {
	out := checked{OK: err == nil, Errors: mistakes(err), Means: []string{}}
	if err == nil {
		out.Means = cfg.Words()
	}
	if err := printJSON(e, out); err != nil {
		return err
	}
	if err != nil {
		return &failure{err: err, code: exitFailed, silent: true}
	}
	return nil
}

// mistakes takes joined errors apart.
func mistakes(err error) []mistake {
	var many interface{ Unwrap() []error }
	var one *config.Error
	list := []mistake{}
	switch {
	case err == nil:
	case errors.As(err, &many):
		for _, e := range many.Unwrap() {
			list = append(list, mistakes(e)...)
		}
	case errors.As(err, &one):
		list = append(list, mistake{one.File, one.Line, one.Key, one.Err.Error()})
	default:
		list = append(list, mistake{Error: strings.TrimSpace(err.Error())})
	}
	return list
}
