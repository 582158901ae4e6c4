//go:build linux

package daemon

import "context"

// The tasks ask each other by messages: who asks sends one, and awaits the answer in a
// channel that has room for it. Neither is waited for when ctx is done.

func send[T any](ctx context.Context, to chan<- T, message T) error {
	select {
	case to <- message:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func await[T any](ctx context.Context, from <-chan T) (answer T, err error) {
	select {
	case answer = <-from:
		return answer, nil
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	}
}

// ask is both, where the answer says whether it could be done.
func ask[T any](ctx context.Context, to chan<- T, message T, done <-chan error) error {
	if err := send(ctx, to, message); err != nil {
		return err
	}
	failed, err := await(ctx, done)
	if err != nil {
		return err
	}
	return failed
}

// wake tells a task that there is something to do, and waits for nobody.
func wake(task chan<- struct{}) {
	select {
	case task <- struct{}{}:
	default:
	}
}
