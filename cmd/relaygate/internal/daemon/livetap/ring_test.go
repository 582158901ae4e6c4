package livetap

import (
	"errors"
	"log/slog"
	"slices"
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

// ended is a tap with connections whose end found no room.
type ended struct {
	cookies []uint64
	err     error
}

func (e ended) Untold() ([]uint64, error) { return e.cookies, e.err }

// Ends of connections that found no room are told all the same, those too that were
// found before an error.
func TestEndsThatFoundNoRoom(t *testing.T) {
	over := errors.New("the daemon ends")
	for _, test := range []struct {
		programs  ended
		told, err error // what lost returns, and untold
		asked     bool
		logged    bool
	}{
		{ended{nil, nil}, over, nil, false, false},
		{ended{[]uint64{7, 8}, nil}, nil, nil, true, false},
		{ended{[]uint64{7}, errors.New("no memory")}, nil, nil, true, true},
		{ended{nil, errors.New("no memory")}, over, nil, false, true},
		{ended{[]uint64{7}, nil}, over, over, true, false},
	} {
		var log strings.Builder
		var got []uint64
		err := untold(test.programs, slog.New(slog.NewTextHandler(&log, nil)), func(cookies []uint64) error { got = cookies; return test.told })
		if !errors.Is(err, test.err) || (got != nil) != test.asked || !slices.Equal(got, test.programs.cookies) || (log.Len() > 0) != test.logged {
			t.Errorf("%+v: told %v, %v, log %q", test.programs, got, err, log.String())
		}
	}
}
