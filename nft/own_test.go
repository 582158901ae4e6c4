package nft

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

func TestClaim(t *testing.T) {
	bpftest.RequireLinux(t, 5, 12, "tables with an owner")
	ns, elsewhere := bpftest.Namespace(t), bpftest.Namespace(t)
	first, err := Open(filter(ns))
	must(t, err)
	for range 2 {
		if err := first.Claim(); err != nil {
			t.Errorf("the first: %v", err)
		}
	}
	second := openGate(t, filter(ns))
	if err := second.Claim(); !errors.Is(err, ErrClaimed) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("the second: got %v, want ErrClaimed with the number of this process", err)
	}
	if err := openGate(t, filter(elsewhere)).Claim(); err != nil {
		t.Errorf("in another namespace: %v", err)
	}
	commit(t, another(t, ns), flushRuleset())
	if err := second.Claim(); !errors.Is(err, ErrClaimed) {
		t.Errorf("after a flush: got %v, want ErrClaimed", err)
	}
	must(t, first.Close())
	if err := second.Claim(); err != nil {
		t.Errorf("after the first has gone: %v", err)
	}
}

// A ruleset that was saved holds the claim, and nobody owns what is loaded.
func TestClaimThatNobodyOwns(t *testing.T) {
	bpftest.RequireLinux(t, 5, 12, "tables with an owner")
	ns := bpftest.Namespace(t)
	commit(t, another(t, ns), tableMessages(claimTable)...)
	must(t, openGate(t, filter(ns)).Claim())
}

func TestOwn(t *testing.T) {
	w := newWorld(t)
	serve(t, w.server, 25)
	other := another(t, w.server)
	cfg := inMode(Filter, w.server)
	rebuild(t, openGate(t, cfg), minute(member4)...) // one that nobody owns

	cfg.Own = true
	first, err := Open(cfg)
	must(t, err)
	if errors.Is(first.Lacks(), ErrUnsupported) {
		_ = first.Close()
		lacks(t, 6, 9, "a table with an owner that persists")
	}
	rebuild(t, first, minute(member4)...)
	rebuild(t, first, minute(member4)...)
	commit(t, other, flushRuleset())
	w.expect(t, "stranger after a flush", strange4, server4, 25, false)
	w.expect(t, "member after a flush", member4, server4, 25, true)
	if _, err := other.commit(tableMessages(own)); !errors.Is(err, unix.EPERM) {
		t.Errorf("another program deletes the table: got %v, want EPERM", err)
	}
	must(t, first.Check())
	second := openGate(t, cfg)
	if err := second.Rebuild(nil); !errors.Is(err, unix.EPERM) {
		t.Errorf("another Gate: got %v, want EPERM", err)
	}
	must(t, first.Close())
	w.expect(t, "stranger after the end of the agent", strange4, server4, 25, false)
	rebuild(t, second, minute(strange4)...)
	w.expect(t, "new member", strange4, server4, 25, true)
	must(t, second.Delete())
	rebuild(t, second)

	// One that wants no owner takes over what the owner left.
	must(t, second.conn.Close())
	second.conn = another(t, w.server)
	cfg.Own = false
	third := openGate(t, cfg)
	rebuild(t, third, minute(member4)...)
	commit(t, other, flushRuleset())
	w.expect(t, "stranger without a gate", strange4, server4, 25, true)
	if err := third.Delete(); err != nil {
		t.Errorf("without a table: %v", err)
	}
}
