// Package message is how the daemon's tasks ask each other: who asks sends a message,
// and awaits the answer in a channel that has room for it. Neither is waited for when
// ctx is done.
package message

import "context"

// Send hands a message over.
func Send[T any](ctx context.Context, to chan<- T, message T) error {
	select {
	case to <- message:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Await waits for an answer.
func Await[T any](ctx context.Context, from <-chan T) (answer T, err error) {
	select {
	case answer = <-from:
		return answer, nil
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	}
}

// Ask is both, where the answer says whether it could be done.
func Ask[T any](ctx context.Context, to chan<- T, message T, done <-chan error) error {
	if err := Send(ctx, to, message); err != nil {
		return err
	}
	failed, err := Await(ctx, done)
	if err != nil {
		return err
	}
	return failed
}

// Wake tells a task that there is something to do, and waits for nobody.
func Wake(task chan<- struct{}) {
	select {
	case task <- struct{}{}:
	default:
	}
}
