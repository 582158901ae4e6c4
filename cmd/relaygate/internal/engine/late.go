package engine

import (
	"time"

	"relaygate/authz"
	"relaygate/capture/flow"
)

// Packets of a file can be out of order: two threads captured the two directions, or a
// mirror port held one of them back. What came too early the table of flows keeps until
// the rest is there. But what the server's kernel took can also stand behind its answer,
// and what it dropped before. So the verdicts of a file wait for a while: whatever casts
// doubt on a login meanwhile makes it a tainted one.
const (
	// Lateness is how late a packet may come, by the file's clock.
	Lateness = 200 * time.Millisecond
	// refusal is how long mail servers take to refuse a login: Courier 5 s, Cyrus 3 s,
	// Dovecot 2 s. So long a verdict waits where the file does not tell which packets
	// this host sent: another station may have sent the answer, before the server did.
	// That is while no more than maxPatient wait, as each holds a flow of its client.
	refusal    = 6 * time.Second
	maxPatient = 1 << 6
	// maxWaiting bounds the verdicts that wait.
	maxWaiting = 1 << 12
	// spentVerdicts are how many that are over may stand before them.
	spentVerdicts = 128
)

// waiting holds verdicts in their order, and with each what it waits for.
type waiting struct {
	verdicts []authz.Verdict
	until    []until
	told     int // verdicts[:told] are over
	before   int // those before the last call
}

// until is when a verdict is told, in Unix nanoseconds, 0 for at once, and when it is if
// few wait; and the flow that is held for it, plus one; 0 where nothing can change it any more.
type until struct {
	due, patient int64
	flow         flow.ID
}

// place makes room for a verdict.
func (w *waiting) place() *authz.Verdict {
	n := len(w.verdicts)
	if n == cap(w.verdicts) {
		w.verdicts = append(w.verdicts, authz.Verdict{})
	}
	w.verdicts, w.until = w.verdicts[:n+1], append(w.until, until{})
	return &w.verdicts[n]
}

// forget drops those that are over.
func (r *Reader) forget() {
	w := r.late
	if w == nil {
		return
	}
	if w.before = w.told; w.told < len(w.verdicts) && w.told < spentVerdicts {
		return
	}
	n := copy(w.verdicts, w.verdicts[w.told:])
	copy(w.until, w.until[w.told:])
	w.verdicts, w.until = w.verdicts[:n], w.until[:n]
	for i := range w.until {
		if id := w.until[i].flow; id > 0 {
			r.sessions[id-1].waits = i + 1
		}
	}
	w.told, w.before = 0, 0
}

// hold lets the login that was told last wait for what comes late in its flow.
func (r *Reader) hold(id flow.ID) {
	if r.late == nil {
		r.finish(id)
		return
	}
	if !r.flows.Hold(id) {
		r.drop(id)
		return
	}
	n, now := len(r.late.until), r.fed.UnixNano()
	u := until{now + int64(Lateness), now + int64(Lateness), id + 1}
	if !r.sessions[id].origin.Shown() {
		u.patient = now + int64(refusal)
	}
	r.late.until[n-1] = u
	r.drop(id)
	r.sessions[id].waits = n
}

// release takes a flow from the verdict that waits with it, and returns that, nil if none
// does.
func (r *Reader) release(id flow.ID) *authz.Verdict {
	if int(id) >= len(r.sessions) || r.sessions[id].waits == 0 {
		return nil
	}
	at := r.sessions[id].waits - 1
	r.sessions[id].waits, r.late.until[at].flow = 0, 0
	return &r.late.verdicts[at]
}

// tell hands on the verdicts that have waited long enough, or all.
func (r *Reader) tell(all bool) {
	if w := r.late; w != nil && w.told < len(w.verdicts) {
		r.tellThose(w, all)
	}
}

func (r *Reader) tellThose(w *waiting, all bool) {
	now := r.now.UnixNano()
	for ; w.told < len(w.verdicts); w.told++ {
		u, n := w.until[w.told], len(w.verdicts)-w.told
		due := u.due
		if n <= maxPatient {
			due = u.patient
		}
		if !all && now < due && n <= maxWaiting {
			break
		}
		if u.flow > 0 {
			r.release(u.flow - 1)
			r.flows.Forget(u.flow - 1)
		}
		v := &w.verdicts[w.told]
		r.note(v, v.Reason)
	}
	r.out = w.verdicts[w.before:w.told]
}

// Settle returns the verdicts of a file that have waited for what comes late, and those on
// what did: nothing came for Lateness or longer.
func (r *Reader) Settle(waited time.Duration) []authz.Verdict {
	r.begin(r.now)
	r.events(r.flows.Settle(r.now))
	last := r.now
	r.now = last.Add(waited)
	r.tell(false)
	r.now = last
	return r.out
}
