package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relaygate/authz"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/engine"
)

func replayCommand(e *env) *cobra.Command {
	var opts replayOptions
	cmd := &cobra.Command{
		Use:   "replay FILE…",
		Short: "Tell what logins capture files show (pcap, pcapng, gzip, - for standard input)",
		Long: `Tell what logins capture files show: pcap, pcapng, either in gzip, or - for standard
input, from which they are told as they come. Each file is read for itself and in
its order (mergecap -a joins parts, reordercap sorts packets). What is in tunnels or
behind MPLS labels is not read. What cannot be proved is told as tainted, and why.`,
		Example: `  relaygate replay mail.pcapng
  tcpdump -U -i any -w - 'port 110 or port 143' | relaygate replay -`,
		Args: takes("a FILE", 1, math.MaxInt),
		RunE: verb(func(cmd *cobra.Command, args []string) error {
			cfg, err := opts.watched()
			if err != nil {
				return err
			}
			return replayFiles(cmd.Context(), e, cfg, opts.json, args)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&opts.json, "json", false, "print one JSON object per verdict")
	f.StringVar(&opts.config, "config", "", "take the watched ports and trusted proxies from this configuration `FILE`")
	f.StringVar(&opts.pop3, "pop3", "", "watch these `PORTS` for POP3, separated by commas")
	f.StringVar(&opts.imap, "imap", "", "watch these `PORTS` for IMAP, separated by commas")
	return cmd
}

type replayOptions struct {
	json               bool
	config, pop3, imap string
}

// watched is the configuration, with the ports of the flags, if there are some.
func (o *replayOptions) watched() (*config.Config, error) {
	cfg, err := config.Default()
	if o.config != "" {
		cfg, err = config.Load(o.config)
	}
	if err != nil {
		return nil, err
	}
	for _, flag := range []struct {
		name, ports string
		protocol    authz.Protocol
	}{{"pop3", o.pop3, authz.POP3}, {"imap", o.imap, authz.IMAP}} {
		if flag.ports == "" {
			continue
		}
		for _, port := range cfg.Ports(flag.protocol) {
			delete(cfg.Services, port)
		}
		for text := range strings.SplitSeq(flag.ports, ",") {
			port, err := strconv.ParseUint(strings.TrimSpace(text), 10, 16)
			if err != nil || port == 0 {
				return nil, &usageError{fmt.Errorf("--%s: %q is no port", flag.name, text)}
			}
			cfg.Services[uint16(port)] = config.Service(uint16(port), flag.protocol)
		}
	}
	return cfg, nil
}

// garbage is how much may wait to be collected, in percent of what is in use: some
// collections more, for 2 MB less in memory at the most.
const garbage = 60

// replayFiles reads one file after the other. A file that cannot be read to its end
// is told in one line; what came before its end is kept.
func replayFiles(ctx context.Context, e *env, cfg *config.Config, asJSON bool, files []string) error {
	defer debug.SetGCPercent(debug.SetGCPercent(garbage))
	bar, stdout := newProgress(e), e.Stdout
	if e.OutTerminal {
		stdout = bar
	}
	buffered := bufio.NewWriterSize(stdout, linesSize)
	var out printer = &table{w: buffered}
	if asJSON {
		out = newJSONLines(stdout)
	}
	sum := newSummary(cfg.Services)
	failed := false
	for _, name := range files {
		err := replayFile(ctx, e, cfg, name, bar, out, sum)
		if errors.Is(err, errOutput) {
			return err
		}
		if err != nil {
			failed = true
			if err := out.flush(); err != nil {
				return fmt.Errorf("%w: %w", errOutput, err)
			}
			fmt.Fprintf(e.Stderr, "relaygate: %v\n", err)
		}
		if errors.Is(err, errInterrupted) {
			break
		}
	}
	switch {
	case failed && sum.packets == 0: // the error says it all
	case !asJSON:
		sum.print(buffered)
	default:
		sum.warn(e.Stderr)
	}
	if err := out.flush(); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	if failed {
		return &failure{err: errors.New("not every file could be read to its end"), code: exitFailed, silent: true}
	}
	return nil
}

var errOutput = errors.New("write the output")

// printer takes verdicts in order, and writes what it keeps with flush.
type printer interface {
	print(*authz.Verdict) error
	flush() error
}

// batch is how many events are decoded, and their verdicts printed, at one time. Of more,
// the memory leaves the processor's cache.
const batch = 64

func replayFile(ctx context.Context, e *env, cfg *config.Config, name string, bar *progress, out printer, sum *summary) (err error) {
	decoder := capture.NewDecoder(capture.NewPortSet(slices.Collect(maps.Keys(cfg.Services))...))
	settle := func(time.Duration) error { return nil } // before the file's header was read
	through := func(r io.Reader) io.Reader {
		return newInput(ctx, r, func(waited time.Duration) error {
			if waited >= engine.Lateness { // nothing can come late any more
				if err := settle(waited); err != nil {
					return err
				}
			}
			return out.flush()
		})
	}
	file, err := openCapture(e, name, through, decoder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	bar.begin(name, file)
	defer bar.clear()
	done := new(capture.DoneSet)
	decoder.PassOver(done)
	reader := engine.NewFileReader(cfg.Services, cfg.TrustedProxies, authz.NewEvidence(authz.EvidenceConfig{NamesOnly: true}), done)
	defer func() { sum.file(file.Packets(), decoder.Stats(), reader.Flows()) }()
	began := e.Now()
	settle = func(waited time.Duration) error {
		if file.Time().Before(began) { // stored before: how fast it comes tells nothing
			return nil
		}
		return tell(reader.Settle(waited), out, sum)
	}
	var events [batch]capture.Event
	var readErr error
	for {
		var n int
		if n, readErr = file.Batch(events[:]); readErr != nil {
			break
		}
		if err := tell(reader.FeedAll(events[:n]), out, sum); err != nil {
			return err
		}
		bar.tick()
	}
	if err := tell(reader.Flush(file.Time()), out, sum); err != nil {
		return err
	}
	if errors.Is(readErr, io.EOF) {
		return nil
	}
	return readErr
}

// tell counts verdicts and prints them.
func tell(verdicts []authz.Verdict, out printer, sum *summary) error {
	for i := range verdicts {
		v := &verdicts[i]
		sum.verdict(v)
		if err := out.print(v); err != nil {
			return fmt.Errorf("%w: %w", errOutput, err)
		}
	}
	return nil
}

func openCapture(e *env, name string, through func(io.Reader) io.Reader, d *capture.Decoder) (*capture.File, error) {
	if name == "-" {
		return capture.NewFile("standard input", through(e.Stdin), d)
	}
	return capture.OpenFile(name, through, d)
}
