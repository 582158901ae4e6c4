// Command run is make bench: it measures what the program promises, prints one
// table, and writes it as JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/cmd/relaygate/internal/bench/live"
	"relaygate/cmd/relaygate/internal/bench/traffic"
)

func main() {
	// What was started is ended in order, whatever the end: also that of a pipe
	// behind this program.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	full := flags.Bool("full", false, "captures of full size, slow peers, more rounds")
	only := flags.String("only", "", "measure one section, or of the live one some parts: live/storm")
	walk := flags.String("walk", "", "walk over the records of a `FILE` and do nothing else")
	capture := flags.Bool("generate", false, "write a capture: name the file, and a profile in JSON")
	million := flags.Bool("million", false, "measure a million grants, also in the relaygate at the given path")
	helper := flags.String("helper", "", "be a `ROLE` of the live section")
	program := flags.String("relaygate", "bin/relaygate", "the program to be measured")
	results := flags.String("results", "bin", "the folder for bench.json")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *helper != "":
		return live.Helper(*helper, os.Stdin, out)
	case *walk != "":
		return walkFile(*walk, out)
	case *capture:
		return generate(flags.Args(), out)
	case *million:
		return bench.MeasureMillion(ctx, flags.Arg(0), out)
	}
	return measure(ctx, options{*full, *only, *program, *results}, out, log)
}

type options struct {
	full                   bool
	only, program, results string
}

func measure(ctx context.Context, o options, out, log io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "relaygate-bench")
	if err != nil {
		return fmt.Errorf("make a folder for captures: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	baseline := filepath.Join(dir, "baseline")
	build := exec.CommandContext(ctx, "go", "build", "-o", baseline, "relaygate/cmd/relaygate/internal/bench/baseline")
	build.Stderr = log
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the obvious program: %w", err)
	}
	if err := os.MkdirAll(o.results, 0o755); err != nil {
		return fmt.Errorf("make the folder for the results: %w", err)
	}
	sections := append(bench.Sections(), live.Section())
	only, part, _ := strings.Cut(o.only, "/")
	if only != "" {
		sections = slices.DeleteFunc(sections, func(s bench.Section) bool { return s.Name != only })
	}
	rows, err := bench.Run(ctx, &bench.Config{
		Full: o.full, Part: part, Relaygate: o.program, Baseline: baseline, Self: self, Dir: dir, Log: log,
	}, sections)
	machine := bench.ThisMachine(runtime.NumCPU(), time.Now(), o.full)
	fmt.Fprintf(out, "%s, %d cores, Linux %s, %s\n", machine.CPU, machine.Cores, machine.Kernel, machine.Time.Format(time.DateOnly))
	return errors.Join(err, bench.Print(out, rows), save(filepath.Join(o.results, "bench.json"), machine, rows))
}

func save(file string, m bench.Machine, rows []bench.Row) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("keep the table: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return bench.WriteJSON(f, m, rows)
}

func walkFile(name string, out io.Writer) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("open capture: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	packets, bytes, err := bench.Walk(f)
	fmt.Fprintf(out, "%d packets, %d bytes\n", packets, bytes)
	return err
}

// generate writes a capture and prints the truth about it.
func generate(args []string, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("name a file, and a profile in JSON")
	}
	var p traffic.Profile
	if err := json.Unmarshal([]byte(args[1]), &p); err != nil {
		return fmt.Errorf("read profile: %w", err)
	}
	f, err := os.Create(args[0])
	if err != nil {
		return fmt.Errorf("make capture: %w", err)
	}
	truth, err := traffic.Generate(f, p)
	if err == nil {
		err = f.Sync() // or the disk is busy while others are measured
	}
	return errors.Join(err, f.Close(), json.NewEncoder(out).Encode(truth))
}
