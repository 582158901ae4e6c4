package flow

import (
	"bytes"
	"testing"
)

// run lets the world go on until all is said, or n things happened.
func (m *model) run(t *testing.T, n int) {
	for _, s := range begin(m.mode, nil) {
		m.feed(t, s)
	}
	for range n {
		m.step(t)
		if !m.evil && len(m.released) == len(m.stream) && len(m.answers) == len(m.written) && m.processed == len(m.stream) {
			return
		}
	}
}

// TestModelHonest: whatever an honest network does, all of the true streams is
// released, in an order that respects cause and effect, and nothing is tainted.
func TestModelHonest(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		m := newModel(seed, seed%4 != 0, false)
		m.run(t, 20000)
		if m.tainted != "" || !bytes.Equal(m.released, m.stream) || len(m.answered) != len(m.written) {
			t.Fatalf("seed %d: tainted %q, %d of %d client bytes, %d of %d server bytes",
				seed, m.tainted, len(m.released), len(m.stream), len(m.answered), len(m.written))
		}
	}
}

// TestModelDeaf: what the tap misses costs bytes, and makes none up.
func TestModelDeaf(t *testing.T) {
	t.Parallel()
	tainted, whole := 0, 0
	for seed := range uint64(3000) {
		m := newModel(seed, seed%4 != 0, false)
		m.deaf = true
		m.run(t, 2000)
		if m.tainted != "" {
			tainted++
		} else if bytes.Equal(m.released, m.stream) && bytes.Equal(m.answered, m.written) {
			whole++
		}
	}
	t.Logf("%d tainted, %d whole", tainted, whole)
	if tainted < 100 || whole < 100 {
		t.Errorf("the model shows little: %d tainted, %d whole", tainted, whole)
	}
}

// TestModelDecoys: whatever a client sends, nothing is released but what the
// server read, in whatever way its kernel chose.
func TestModelDecoys(t *testing.T) {
	t.Parallel()
	tainted, useful := 0, 0
	for seed := range uint64(20000) {
		m := newModel(seed, seed%4 != 0, true)
		m.run(t, 400)
		if m.tainted != "" {
			tainted++
		}
		if len(m.released) > 20 {
			useful++
		}
	}
	t.Logf("%d tainted, %d with released bytes", tainted, useful)
	if tainted < 1000 || useful < 1000 {
		t.Errorf("the model shows little: %d tainted, %d with released bytes", tainted, useful)
	}
}
