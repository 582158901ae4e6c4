package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// input is what a capture is read from. What has been told is written before more
// must be waited for, so that who pipes a capture in while it is made sees its logins
// as they come; and SIGINT ends it, also while it waits.
type input struct {
	io.Reader
	ctx   context.Context
	polls []unix.PollFd // of what must be waited for: a pipe, a terminal, a socket
	flush func(waited time.Duration) error
}

var errInterrupted = errors.New("interrupted")

func newInput(ctx context.Context, r io.Reader, flush func(waited time.Duration) error) *input {
	in := &input{Reader: r, ctx: ctx, flush: flush}
	if f, ok := r.(*os.File); ok {
		if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
			in.polls = []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		}
	}
	return in
}

func (in *input) Read(b []byte) (int, error) {
	if err := in.wait(); err != nil {
		return 0, err
	}
	return in.Reader.Read(b)
}

// wait returns when there is something to read.
func (in *input) wait() error {
	const lookUp = 200 // milliseconds between two looks at the context
	waited := time.Duration(0)
	for timeout := 0; ; timeout = lookUp {
		if in.ctx.Err() != nil {
			return errInterrupted
		}
		if len(in.polls) == 0 {
			return nil
		}
		switch n, err := unix.Poll(in.polls, timeout); {
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for input: %w", err)
		case n > 0:
			return nil
		}
		waited += time.Duration(timeout) * time.Millisecond
		if err := in.flush(waited); err != nil {
			return fmt.Errorf("%w: %w", errOutput, err)
		}
	}
}
