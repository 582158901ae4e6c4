package state

import (
	"os"
	"testing"

	"relaygate/cmd/relaygate/internal/lab"
)

// The tests write some ten thousand times to the disk, which takes a slow one minutes: it
// is not what they are about.
func TestMain(m *testing.M) {
	if err := os.Setenv("TMPDIR", lab.TempDir(512<<20)); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
