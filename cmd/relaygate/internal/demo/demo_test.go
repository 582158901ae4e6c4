package demo

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"relaygate/bpf/bpftest"
)

// cancelAt calls cancel when a text is written.
type cancelAt struct {
	text   string
	cancel func()
}

func (c cancelAt) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(c.text)) {
		c.cancel()
	}
	return len(p), nil
}

// Ctrl-C is told as what it is, not as the failure of the step that it ended.
func TestInterrupted(t *testing.T) {
	bpftest.RequireRoot(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	key := errors.New("a key was pressed")
	err := Run(ctx, Options{Exe: "/nonexistent", Out: cancelAt{"[2]", func() { cancel(key) }}})
	if !errors.Is(err, key) || !strings.HasPrefix(err.Error(), "demo interrupted in step 2") {
		t.Errorf("Run = %v", err)
	}
}
