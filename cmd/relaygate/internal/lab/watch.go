package lab

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"relaygate/cmd/relaygate/internal/control"
)

// knock is whom the events are about by which a watcher shows that it is there.
var knock = netip.MustParsePrefix("100.64.0.9/32")

// Watch hands the daemon's events on, as lines of JSON, from when it returns until ctx is
// done or the daemon ends. ended tells how, and is closed then.
func (d *Daemon) Watch(ctx context.Context, each func(line []byte) error) (ended <-chan error, err error) {
	client := control.NewClient(d.Socket)
	done, there := make(chan error, 1), make(chan struct{})
	isThere := sync.OnceFunc(func() { close(there) })
	go func() {
		defer close(done)
		done <- client.Watch(ctx, func(line []byte) error {
			isThere()
			if bytes.Contains(line, []byte(knock.Addr().String())) {
				return nil
			}
			return each(line)
		})
	}()
	return done, Poll(ctx, 30*time.Second, 50*time.Millisecond, func() error {
		for _, verb := range []string{control.VerbDeny, control.VerbUndeny} {
			if _, err := client.Order(ctx, control.Order{Verb: verb, Prefix: knock}); err != nil {
				return err
			}
		}
		select {
		case <-there:
			return nil
		default:
			return errors.New("no event yet")
		}
	})
}
