package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

// verb runs one of the program's verbs against the daemon and shows what it
// prints.
func (d *demo) verb(ctx context.Context, args ...string) error {
	d.say("$ relaygate %s", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, d.Exe, append(args, "--socket", d.daemon.Socket)...)
	out, err := cmd.CombinedOutput()
	d.quote(string(out))
	if err != nil {
		return fmt.Errorf("relaygate %s: %w", args[0], err)
	}
	if len(bytes.TrimSpace(out)) == 0 {
		return fmt.Errorf("relaygate %s printed nothing", args[0])
	}
	return nil
}

// say prints one line of the story.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.Out, "    "+format+"\n", args...)
}

// quote prints a text of several lines, set off from the story.
func (d *demo) quote(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(d.Out, "      | %s\n", strings.TrimRight(line, "\n"))
	}
}

// waitFile waits until a file holds exactly want.
func waitFile(ctx context.Context, path, want string, limit time.Duration) error {
	return lab.Poll(ctx, limit, 50*time.Millisecond, func() error {
		got, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the file: %w", err)
		}
		if string(got) != want {
			return fmt.Errorf("%s holds %q, want %q", path, got, want)
		}
		return nil
	})
}
