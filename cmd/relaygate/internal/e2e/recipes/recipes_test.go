//go:build e2e

package recipes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
)

const (
	here  = "alice@local.example"
	there = "bob@elsewhere.example"
)

// behaviour is what becomes of mail at port 25.
type behaviour struct {
	memberRelays, strangerDelivers, strangerRelays outcome
}

// expected is what the manual says of a mode: with the gate, and with its table
// gone.
func expected(mode string) (with, without behaviour) {
	byFile := behaviour{accepted, accepted, denied}
	switch mode {
	case "observe":
		return byFile, byFile
	case "redirect":
		without = byFile
		without.memberRelays = denied // port 25 relays for nobody
		return byFile, without
	case "mark": // the administrator's own rules stand
		return behaviour{accepted, shut, shut}, behaviour{shut, shut, shut}
	}
	return behaviour{accepted, shut, shut}, byFile
}

func TestRecipes(t *testing.T) {
	for _, s := range []mailServer{exim, postfix} {
		for _, mode := range []string{"observe", "filter", "redirect", "mark", "sets", "gateway"} {
			t.Run(s.name+"/"+mode, func(t *testing.T) { follow(t, s, mode) })
		}
	}
	t.Run("exim of Debian/observe", func(t *testing.T) { follow(t, debianExim, "observe") })
}

// follow does what the manual says, and looks at what becomes of mail.
func follow(t *testing.T, s mailServer, mode string) {
	w := newWorld(t, mode)
	w.startServer(t, s)
	w.startDaemon(t, s)
	with, without := expected(mode)

	w.expect(t, "a client before his login", w.Client4, 25, there, with.strangerRelays)
	w.admit(t, w.Client4, lab.Client4, lab.POP3Login(w.at4, lab.Password))
	w.admit(t, w.Client6, lab.Client6, lab.IMAPLogin(w.at6, lab.Password))
	w.settle(t, "a member", w.Client4, with.memberRelays)
	w.settle(t, "a member", w.Client6, with.memberRelays)
	w.expect(t, "a stranger", w.Stranger, 25, here, with.strangerDelivers)
	w.expect(t, "a stranger", w.Stranger, 25, there, with.strangerRelays)
	if mode == "redirect" {
		w.expect(t, "a stranger at the relay port", w.Stranger, 925, there, shut)
	}
	w.withoutTable(t, func() { w.expectSecondLock(t, without) })

	w.order(t, control.VerbRevoke, lab.Client4)
	w.settle(t, "a former member", w.Client4, with.strangerRelays)
	w.settle(t, "another member", w.Client6, with.memberRelays)
	must(t, w.daemon.Stop())
	w.settle(t, "a member after the end of relaygate", w.Client6, denied) // the file is empty
}

// expectSecondLock looks at what the mail server does alone.
func (w *world) expectSecondLock(t *testing.T, want behaviour) {
	t.Helper()
	w.expect(t, "a stranger without the table", w.Stranger, 25, here, want.strangerDelivers)
	w.expect(t, "a stranger without the table", w.Stranger, 25, there, want.strangerRelays)
	w.expect(t, "a member without the table", w.Client4, 25, there, want.memberRelays)
	switch w.mode {
	case "redirect":
		w.expect(t, "a stranger at the relay port without the table", w.Stranger, 925, there, denied)
		w.expect(t, "a member at the relay port without the table", w.Client4, 925, there, accepted)
	case "mark": // the administrator's rules gone too
		w.nft(t, "", "delete", "table", "inet", "mail")
		w.expect(t, "a stranger without any table", w.Stranger, 25, there, denied)
		w.expect(t, "a member without any table", w.Client4, 25, there, accepted)
		w.nft(t, snippet(t, "nft", w.mode), "-f", "-")
	}
}

// withoutTable takes the table away while relaygate cannot put it back.
func (w *world) withoutTable(t *testing.T, do func()) {
	t.Helper()
	must(t, w.daemon.Freeze(t.Context()))
	table := "relaygate"
	if w.mode == "sets" {
		table = "mail"
	}
	w.nft(t, "", "delete", "table", "inet", table)
	do()
	if w.mode == "sets" {
		w.nft(t, snippet(t, "nft", w.mode), "-f", "-")
	}
	must(t, w.daemon.Thaw())
}

// settle waits until a client's mail to others is what it should be: a process of
// Postfix may have read the list some seconds before. It knocks seldom, for the
// brake.
func (w *world) settle(t *testing.T, who string, h *lab.Host, want outcome) {
	t.Helper()
	must(t, lab.Poll(t.Context(), 6*time.Second, 500*time.Millisecond, func() error {
		return w.check(t, who, h, 25, there, want)
	}))
}

func (w *world) expect(t *testing.T, who string, h *lab.Host, port uint16, recipient string, want outcome) {
	t.Helper()
	if err := w.check(t, who, h, port, recipient, want); err != nil {
		t.Error(err)
	}
}

// check sends a mail. One that is accepted must arrive.
func (w *world) check(t *testing.T, who string, h *lab.Host, port uint16, recipient string, want outcome) error {
	t.Helper()
	subject := fmt.Sprintf("%s, %s, %d", who, h.Name, time.Now().UnixNano())
	got, said := send(t, h, w.address(h, port), recipient, subject)
	if got != want {
		return fmt.Errorf("%s, %s: mail for %s is %s (%s), want %s", who, h.Name, recipient, got, said, want)
	}
	switch {
	case got != accepted:
	case recipient == there:
		settles(t, 20*time.Second, w.sink.has(subject))
	default:
		settles(t, 20*time.Second, w.delivered(subject))
	}
	return nil
}

// delivered is nil if a mail is in alice's mailbox.
func (w *world) delivered(subject string) func() error {
	return func() error {
		root := filepath.Join(w.dir, w.server.Name+".layer", "upper")
		box, err := os.ReadFile(filepath.Join(root, "var/mail/alice"))
		if err == nil && !strings.Contains(string(box), "Subject: "+subject+"\n") {
			err = fmt.Errorf("no mail %q in the mailbox:\n%s", subject, box)
		}
		return err
	}
}
