package tlstap

import (
	"context"
	"io/fs"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"relaygate/capture/sockdiag"
)

// slowTables need a second to tell who listens.
type slowTables struct{ *fakeTables }

func (s slowTables) Servers() []sockdiag.Listener {
	<-time.After(time.Second)
	return s.fakeTables.Servers()
}

// TestServersAreToldAheadOfTheScan: where scans take long, and so wait, a server that has
// started is told at once.
func TestServersAreToldAheadOfTheScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.process(10, 1, "maild", "/")
		w.process(20, 1, "maild", "/")
		w.finder.tables = slowTables{w.tables}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.finder.Run(ctx) }()
		defer func() {
			cancel()
			must(t, <-done)
		}()
		<-time.After(2*time.Second + longest) // two scans
		for _, pid := range []int{10, 20} {
			w.tables.set(held(imaps, uint32(pid), pid))
			<-time.After(time.Second)
			synctest.Wait()
			if got := w.tap.heads(); !slices.Equal(got, []uint32{uint32(pid)}) {
				t.Errorf("told of %v, want %d", got, pid)
			}
		}
	})
}

// countedFiles counts what is read.
type countedFiles struct {
	fs.FS
	read int
}

func (c *countedFiles) ReadFile(name string) ([]byte, error) {
	c.read++
	return fs.ReadFile(c.FS, name)
}

// TestServersThatAreToldAreNotFollowed: that one of a server's many processes holds its
// listener, or does no more, is for the scan to see.
func TestServersThatAreToldAreNotFollowed(t *testing.T) {
	w := newWorld(t)
	for pid, parent := range map[int]int{10: 1, 11: 10, 12: 10, 20: 1} {
		w.process(pid, parent, "maild", "/")
	}
	w.tables.set(held(imaps, 1, 10, 11))
	w.scan(0)
	files := &countedFiles{FS: w.finder.files}
	w.finder.files = files
	w.tables.set(held(imaps, 1, 10, 12))
	if w.finder.follow(); files.read > 0 {
		t.Errorf("read %d files", files.read)
	}
	w.tables.set(held(imaps, 1, 10, 12), held(pop3s, 2, 20))
	w.finder.follow()
	if got := w.tap.heads(); !slices.Equal(got, []uint32{10, 20}) {
		t.Errorf("told of %v, want another server too", got)
	}
}
