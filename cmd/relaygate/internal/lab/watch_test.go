package lab_test

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

// TestWatchAndWhyTellTheStory follows one address from a refused login to the
// end of its grant. Secrets, and names that nobody has, come out nowhere.
func TestWatchAndWhyTellTheStory(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ry-Tr0ub4dor"
	w := newWorld(t, 3*time.Second, "")
	cmd := exec.CommandContext(t.Context(), program, "watch", "--json", "--socket", w.daemon.Socket)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	wrong := func() {
		if _, ok, err := w.Client4.Login(t.Context(), lab.POP3Login(lab.Server4, canary)); err != nil || ok {
			t.Fatalf("the wrong password: %v, %v", ok, err)
		}
	}
	// Until the watcher is there.
	var seen []string
	settles(t, 5*time.Second, func() error {
		wrong()
		select {
		case line := <-lines:
			seen = append(seen, line)
			return nil
		case <-time.After(50 * time.Millisecond):
			return exec.ErrWaitDelay
		}
	})
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))

	want := []string{"success", "grant", "expire"}
	deadline := time.After(long)
	for len(want) > 0 {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("watch ended; seen:\n%s", strings.Join(seen, "\n"))
			}
			seen = append(seen, line)
			var ev struct{ Event, Result, Client string }
			must(t, json.Unmarshal([]byte(line), &ev))
			if ev.Event == want[0] || ev.Result == want[0] {
				want = want[1:]
				if ev.Client != lab.Client4.String() {
					t.Errorf("client %q in %s", ev.Client, line)
				}
			}
		case <-deadline:
			t.Fatalf("no %v; seen:\n%s", want, strings.Join(seen, "\n"))
		}
	}
	why := w.verb(t, "why", lab.Client4.String())
	for _, word := range []string{"may not relay: its grant ran out", "failure", "granted", "expired"} {
		if !strings.Contains(why, word) {
			t.Errorf("why does not tell %q:\n%s", word, why)
		}
	}
	all := why + strings.Join(seen, "\n") + w.verb(t, "status", "--json") + w.verb(t, "why", "--json", lab.Client4.String())
	must(t, w.daemon.Stop())
	for _, secret := range []string{canary, lab.Password} {
		if strings.Contains(all+w.daemon.Log(), secret) {
			t.Errorf("the secret %q came out", secret)
		}
	}
}

// What was decided about an address that may always relay is told over a restart too,
// whose rules open it before anything else does.
func TestStoryOfAlwaysOutlivesARestart(t *testing.T) {
	address := lab.Client4.String()
	w := newWorldWith(t, lab.Options{Lifetime: time.Minute, Grant: "always = [\"" + address + "\"]\n"})
	w.verb(t, "deny", address, "--note", "ticket 4711")
	w.verb(t, "undeny", address)
	must(t, w.daemon.Stop())
	w.start(t)
	must(t, w.says(t, "why "+address, "always allowed", "ticket 4711", "revoked", "undenied")())
}
