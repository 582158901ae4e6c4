package daemon

import (
	"context"
	"time"

	"relaygate/authz"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/engine"
)

// maxUndone bounds the connections whose recording is still to be ended.
const maxUndone = 64

// steer tells the tap what the engine wants of it. In a crowd the end of a recording
// may wait until the rings are read: most connections have ended by then.
func (o *owner) steer() {
	for _, s := range o.engine.Steer() {
		if s.Course != engine.Plaintext {
			o.undone = append(o.undone, s)
		} else if o.tap.Steer(s) != nil {
			o.errs++
		}
	}
}

// endRecordings ends those of steer; more says that there will be others at once.
func (o *owner) endRecordings(more bool) {
	if more && len(o.undone) < maxUndone {
		return
	}
	for _, s := range o.undone {
		if o.tap.Steer(s) != nil {
			o.errs++
		}
	}
	o.undone = o.undone[:0]
}

// ended: the kernel records nothing more of a connection that has closed.
func (o *owner) ended(c authz.Conn) {
	for i := len(o.undone) - 1; i >= 0; i-- {
		if o.undone[i].Conn.Cookie == c.Cookie {
			last := len(o.undone) - 1
			o.undone[i] = o.undone[last]
			o.undone = o.undone[:last]
			return
		}
	}
}

// settle does what may wait while there is more to be read.
func (o *owner) settle(more bool) {
	o.gate.Flush(more)
	o.endRecordings(more)
}

// forget ends connections of which no event will come: nobody knows how they went on.
// That they began may still stand in the tap, and is read before: else they would be
// followed for good.
func (o *owner) forget(ctx context.Context, cookies []uint64) error {
	var failed error
	err := o.ask(ctx, func(now time.Time) {
		if failed = o.readOut(now, new(capture.Event)); failed != nil {
			return
		}
		for _, cookie := range cookies {
			o.event(&capture.Event{Kind: capture.Closed, Time: time.Now(), Conn: authz.Conn{Cookie: cookie}})
		}
	})
	if err != nil {
		return err // it may be read yet
	}
	return failed
}
