package bpf

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A probe that failed is no answer: the next one who asks may get another.
func TestProbesAreAskedUntilTheyTell(t *testing.T) {
	for _, test := range []struct {
		first error
		lacks bool
		asked int // of two times
	}{
		{nil, false, 1},
		{ebpf.ErrNotSupported, true, 1},
		{fmt.Errorf("functions: %w", ebpf.ErrNotSupported), true, 1},
		{errLockedDown, true, 1},
		{unix.ENOMEM, false, 2},
		{unix.EPERM, false, 2},
		{unix.EMFILE, false, 2},
	} {
		asked := 0
		probe := remember(func() error {
			if asked++; asked == 1 {
				return test.first
			}
			return nil
		})
		err := needs("what is asked for", "4.17", probe())
		if err2 := probe(); asked != test.asked || (err2 == nil) != (test.first == nil || test.asked == 2) {
			t.Errorf("%v: asked %d times, then %v", test.first, asked, err2)
		}
		if Lacks(err) != test.lacks {
			t.Errorf("%v: lacks %v", err, Lacks(err))
		}
	}
}
