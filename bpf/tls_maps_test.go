package bpf_test

import (
	"slices"
	"strings"
	"testing"
)

// TestLibrariesShareMaps: the programs on a library file have no room of their own in the
// kernel but for their constants, as there can be many files.
func TestLibrariesShareMaps(t *testing.T) {
	d, ns, tap := opensslTap(t)
	probes := attach(t, tap, d, d.serve(t, ns, addr))
	own := slices.DeleteFunc(probes.OwnMaps(t), func(name string) bool { return strings.HasPrefix(name, ".") })
	if len(own) > 0 {
		t.Errorf("a library file has maps of its own: %v", own)
	}
}
