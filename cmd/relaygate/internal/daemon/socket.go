package daemon

import (
	"context"
	"time"

	"relaygate/cmd/relaygate/internal/control"
)

// socketEvery is how often it is looked whether the control socket is there still.
const socketEvery = 2 * time.Second

// runSocket answers the control socket, and makes another where somebody removed it, or
// where nobody could be let in (accept(2) fails without memory, say).
func (d *daemon) runSocket(ctx context.Context) error {
	for {
		err := d.serveWhileThere(ctx)
		switch {
		case ctx.Err() != nil:
			return err
		case err != nil:
			d.log.Error("the control socket failed: it is made again", "error", err)
		default:
			d.log.Error("somebody removed the control socket: it is made again", "path", d.opts.Config.Socket)
		}
		if err := d.socketAgain(ctx); err != nil {
			return err
		}
	}
}

// serveWhileThere serves until the socket is gone, or ctx is done.
func (d *daemon) serveWhileThere(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	socket := d.socket // the goroutine may outlive this one's turn
	go func() {
		defer cancel()
		tick := time.NewTicker(socketEvery)
		defer tick.Stop()
		for socket.There() {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return control.Serve(ctx, socket, d, d.hub, d.log)
}

// socketAgain listens anew, as soon as that can be done; without an error when ctx is
// done.
func (d *daemon) socketAgain(ctx context.Context) error {
	for {
		if err := d.socket.Close(); err != nil {
			return err
		}
		socket, err := control.Listen(d.opts.Config.Socket)
		if err == nil {
			d.socket = socket
			return nil
		}
		// Who holds the lock for a moment cannot have the gate, and ends.
		d.log.Error("the control socket cannot be made: trying again", "error", err, "every", socketEvery)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(socketEvery):
		}
	}
}
