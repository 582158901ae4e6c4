package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/clock"
	"relaygate/cmd/relaygate/internal/daemon/gate"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/daemon/livetap"
	"relaygate/cmd/relaygate/internal/daemon/logging"
	"relaygate/cmd/relaygate/internal/daemon/message"
	"relaygate/cmd/relaygate/internal/engine"
)

// owner is the one goroutine that reads, decides and holds the grants.
type owner struct {
	engine *engine.Engine
	tap    livetap.Tap
	tls    *livetap.TLS
	gate   *gate.Gate
	files  *files
	log    *slog.Logger
	out    *logging.Log
	hub    *control.Hub
	asked  chan question
	errs   uint64            // what the tap could not be steered to
	undone []engine.Steering // see steer

	cutter   *cutter
	keeper   *keeper.Keeper
	sessions sessions
	watchdog watchdog
	looked   time.Time // when look was called last
	sleep    clock.Sleep
	boot     clock.Moment
	before   map[string]uint64 // counters of before the start
	counted  time.Time         // when they were written last
	// admission is the login that is being decided.
	admission grant.Admission
}

// question is a message to the owner: do runs in its goroutine.
type question struct {
	do   func(now time.Time)
	done chan struct{}
}

func newOwner(e *engine.Engine, d *daemon) *owner {
	return &owner{
		engine: e, gate: d.gate, files: d.files, log: d.log, out: d.out, hub: d.hub, asked: make(chan question, 16),
		cutter: d.cutter, keeper: d.keeper,
		sessions: sessions{open: make(map[authz.Conn]*held)},
		watchdog: newWatchdog(d.gate.Beat, d.log),
	}
}

// grants is the table; only the owner may touch it.
func (o *owner) grants() *grant.Table { return o.engine.Grants() }

// ask runs do in the owner's goroutine and waits for it.
func (o *owner) ask(ctx context.Context, do func(now time.Time)) error {
	q := question{do: do, done: make(chan struct{})}
	if err := message.Send(ctx, o.asked, q); err != nil {
		return err
	}
	o.tap.Wake()
	_, err := message.Await(ctx, q.done)
	return err
}

// The owner looks at its clock and its messages at least that often.
const (
	maxWait       = time.Second
	eventsPerLook = 256
	// maxCatchUp is more events than the tap holds, and bounds how long a storm can
	// keep the clock from being looked at.
	maxCatchUp = 1 << 17
	countEvery = time.Minute
)

func (o *owner) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, o.tap.Wake)
	defer stop()
	defer o.gate.Flush(false)
	var ev capture.Event
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n%eventsPerLook == 0 {
			if err := o.catchUp(time.Now(), &ev); err != nil {
				return err
			}
			o.look(time.Now())
		}
		more, err := o.next(&ev)
		if err != nil {
			return err
		}
		if !more {
			n = -1
		}
	}
}

// next handles the tap's next event. It reports false if there is none until the
// deadline.
func (o *owner) next(ev *capture.Event) (more bool, err error) {
	err = o.tap.Next(ev)
	switch {
	case err == nil:
		o.event(ev)
		o.settle(o.tap.Crowded())
		return true, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false, nil
	}
	return false, fmt.Errorf("read the tap: %w", err)
}

// catchUp reads what the tap holds before the clock is looked at, where the loop hung:
// sessions that ended meanwhile would seem to have held their grants all the time.
func (o *owner) catchUp(now time.Time, ev *capture.Event) error {
	if o.looked.IsZero() || now.Sub(o.looked) < 2*maxWait {
		return nil
	}
	o.log.Warn("the tap was not read for a while: what happened meanwhile comes first", "for", now.Sub(o.looked).Round(time.Millisecond))
	return o.readOut(now, ev)
}

// readOut reads what the tap holds.
func (o *owner) readOut(now time.Time, ev *capture.Event) error {
	o.tap.SetDeadline(now)
	// Who asks something wakes the tap, which seems empty then.
	for n, empty := 0, 0; n < maxCatchUp && empty < 4; n++ {
		more, err := o.next(ev)
		if err != nil {
			return err
		}
		if empty++; more {
			empty = 0
		}
	}
	return nil
}

// look serves what is due and what was asked, and sets the next deadline.
func (o *owner) look(now time.Time) {
	o.watchdog.look(now)
	o.looked = now
	o.boot = clock.Now(now)
	o.gate.Count(o.grants().Len())
	if slept := o.sleep.Since(); slept > 0 {
		o.log.Warn("the machine slept: every grant ends as much earlier", "for", slept)
		o.woke(now, slept)
	}
	if now.Sub(o.counted) >= countEvery {
		o.counted = now
		o.keeper.PutCounters(o.counters())
	}
	for _, c := range o.engine.Expire(now) {
		o.change(now, c)
	}
	o.judge(o.engine.Unread(now))
	o.answer(now)
	o.settle(o.tap.Crowded())
	deadline := now.Add(maxWait)
	if next, ok := o.grants().Next(); ok && next.Before(deadline) {
		deadline = next
	}
	o.tap.SetDeadline(deadline)
}

// answer does what was asked; events wait meanwhile. Who asked may want to see
// in the gate what was decided before.
func (o *owner) answer(now time.Time) {
	for range len(o.asked) {
		q := <-o.asked
		o.gate.Flush(false)
		q.do(now)
		close(q.done)
	}
}

// event feeds one event: the gate first, everything else after.
func (o *owner) event(ev *capture.Event) {
	switch ev.Kind {
	case capture.Plain:
		o.tls.Believe(o.engine, ev)
	case capture.Closed:
		o.ended(ev.Conn)
	default:
	}
	o.judge(o.engine.Feed(ev))
}

// judge carries verdicts to the gate and to everybody, and tells the tap what to
// record from now on.
func (o *owner) judge(verdicts []authz.Verdict) {
	for i := range verdicts {
		v := &verdicts[i]
		now := time.Now()
		c, changed := o.decide(now, v)
		if o.hub.Watched() {
			out := control.NewVerdict(v)
			out.Event = "login"
			o.hub.Publish(v.Time, out)
		}
		if changed {
			o.tell(now, &c)
		}
	}
	o.tls.Judged(o.engine.Covered())
	if len(o.engine.Holds()) > 0 {
		o.follow(time.Now())
	}
	o.sessions.admitted = o.sessions.admitted[:0]
	o.steer()
}

// decide lets a login in, and only then asks what there is to say of it.
func (o *owner) decide(now time.Time, v *authz.Verdict) (c grant.Change, changed bool) {
	a := &o.admission
	if !o.engine.Admit(now, v, a) {
		return c, false
	}
	opened := a.Arm && a.Kind == grant.Granted
	if opened {
		o.gate.Admit(a.Prefix, a.Expires, now, v.Time)
		o.gate.Flush(o.tap.Crowded())
	}
	c = o.engine.Explain(a)
	if !opened {
		o.write(now, &c)
	}
	if c.Kind == grant.Granted || c.Kind == grant.Renewed {
		o.sessions.admitted = append(o.sessions.admitted, v.Conn)
	}
	return c, true
}

// setHost puts a new view of the host's network in force.
func (o *owner) setHost(ctx context.Context, h authz.Host) {
	_ = o.ask(ctx, func(now time.Time) {
		changes, err := o.engine.SetHost(now, h)
		if err != nil {
			o.log.Error("the host's network cannot be understood: the former policy stays", "error", err)
			return
		}
		for _, c := range changes {
			o.change(now, c)
		}
	})
}
