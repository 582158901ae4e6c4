//go:build linux

package livetap

import (
	"log/slog"
	"strings"
	"testing"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/control"
)

// A tap that could not be looked at, for want of memory say, is no problem any more when
// it can be.
func TestTapThatCouldNotBeSeen(t *testing.T) {
	bpftest.RequireRoot(t)
	programs, err := bpf.Load(bpf.Options{Ports: []uint16{61154}, Owners: []uint32{0}})
	must(t, err)
	defer func() {
		must(t, programs.Close())
	}()
	var log strings.Builder
	tap := &ringTap{programs: programs, log: slog.New(slog.NewTextHandler(&log, nil)), hub: control.NewHub()}
	words := "whether the tap is attached cannot be seen: no memory"
	tap.lost.Store(&words)
	for range 2 {
		must(t, tap.reattach(func([]uint64) error { return nil }))
	}
	if words := tap.lost.Load(); words != nil {
		t.Errorf("it is attached, and still it says: %s", *words)
	}
	if strings.Count(log.String(), "could not be seen") != 1 {
		t.Errorf("the log does not tell once that it can be seen again:\n%s", log.String())
	}
}
