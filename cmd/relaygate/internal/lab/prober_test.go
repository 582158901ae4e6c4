package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

// outcome is where a connection got.
type outcome string

const (
	refused_ outcome = "refused"
	outside  outcome = "where everybody gets"
	inside   outcome = "inside"
	// nowhere: who connected when the table was taken away hears nothing more. The kernel
	// translates no address without a chain for that, so what the one end says comes
	// from another port at the other.
	nowhere outcome = "nothing"
)

// unheard is after how long nothing more is expected to be heard.
const unheard = 2 * time.Second

// prober opens connections from one address again and again, and knows what it
// last saw and what that address was promised: it is the judge, not the agent's
// table.
type prober struct {
	from   *lab.Host
	to     netip.AddrPort
	member bool
	script lab.Script // by which it logs in
	inside string     // the greeting that only members may see
	shut   outcome    // where everybody else gets

	mu      sync.Mutex
	promise promise
	saw     outcome
	looked  span // the last time
	count   map[outcome]int
	passes  []span // when it got inside, if it is a stranger
	judged  int
}

// span is a time from begin to end.
type span struct{ begin, end time.Time }

// promise is what an address was promised. What a kill left uncertain may hold.
type promise struct {
	must, may time.Time // open until the one at least, and closed from the other on
	held      int       // open sessions that hold it
	last      int       // number of the last login, while its session is open
	unsure    bool      // a kill may have forgotten the sessions
	unseen    time.Time // until then nobody may have seen the end of a session
	denied    bool
	always    bool
	era       int // of what the sessions hold: a revocation begins another
	changed   time.Time
}

func (p *prober) String() string { return fmt.Sprintf("%s to %s", p.from.From, p.to) }

// look opens one connection.
func (p *prober) look(ctx context.Context) error {
	begin := time.Now()
	saw, err := p.try(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.saw, p.looked = saw, span{begin, time.Now()}
	p.count[saw]++
	if saw == inside && !p.member {
		p.passes = append(p.passes, p.looked)
	}
	return nil
}

func (p *prober) try(ctx context.Context) (outcome, error) {
	conn, err := p.from.Dial(ctx, p.to)
	var line string
	if err == nil {
		defer conn.Close()
		buf := make([]byte, 100)
		n := 0
		if err = conn.SetReadDeadline(time.Now().Add(unheard)); err == nil {
			n, err = conn.Read(buf)
		}
		line = strings.TrimSpace(string(buf[:n]))
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return refused_, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nowhere, nil
	case err != nil:
		return "", fmt.Errorf("%s: %w", p, err)
	case line == p.inside:
		return inside, nil
	}
	return outside, nil
}

// settle is how long the gate may take to be as promised.
const settle = time.Second

// verdict says what is wrong with the last look, if nothing that counts happened
// for a second before it; calm is when the world was last disturbed.
func (p *prober) verdict(calm time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	want, sure := p.promise.at(p.looked.begin, calm)
	after, still := p.promise.at(p.looked.end, calm)
	if p.looked.begin.IsZero() || !sure || !still || want != after {
		return nil
	}
	p.judged++
	expected := p.shut
	if want {
		expected = inside
	}
	if p.saw == expected {
		return nil
	}
	clock := func(t time.Time) string { return t.Format("05.000") }
	return fmt.Errorf("%s: got %q and should get %q at %s: promised until %s, perhaps %s, %d sessions, denied %v, always %v, changed %s, calm since %s",
		p, p.saw, expected, clock(p.looked.begin), clock(p.promise.must), clock(p.promise.may),
		p.promise.held, p.promise.denied, p.promise.always, clock(p.promise.changed), clock(calm))
}

// at says whether it is open at a moment, and whether that is sure.
func (p *promise) at(now, calm time.Time) (open, sure bool) {
	if now.Sub(calm) < settle || now.Sub(p.changed) < settle {
		return false, false
	}
	if p.always && !p.denied || p.held > 0 && !p.unsure || now.Before(p.must.Add(-settle)) {
		return true, true
	}
	return false, p.held == 0 && now.After(p.may.Add(settle))
}

// change changes what the address was promised.
func (p *prober) change(do func(*promise)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do(&p.promise)
	p.promise.changed = time.Now()
}

// extend promises one lifetime from now.
func (p *promise) extend(lifetime time.Duration) {
	until := time.Now().Add(lifetime)
	p.must, p.may, p.unsure = later(p.must, until), later(p.may, until), false
	p.era = max(p.era, 1)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// end ends all that a login or a session promised.
func (p *promise) end() {
	*p = promise{denied: p.denied, always: p.always, era: p.era + 1}
}

// released ends a session. While the agent is down nobody sees the end, and one
// that was restarted meanwhile sees it with its next look.
func (p *promise) released(number int, lifetime time.Duration, down, restarted bool) {
	const look = 1500 * time.Millisecond
	until := time.Now().Add(lifetime)
	p.held--
	if p.last == number {
		p.last = 0
	}
	p.may = later(p.may, until)
	if restarted || down {
		p.may = later(p.may, until.Add(look))
		p.unseen = time.Now().Add(look)
	}
	if !down && !p.unsure {
		p.must = later(p.must, until)
	}
	p.unsure = p.unsure && p.held > 0
}

// killed leaves uncertain what was not written down.
func (p *promise) killed(at time.Time, written bool) {
	const soon = 3 * time.Second // a busy disk takes its time
	if !written && at.Sub(p.changed) < soon || at.Before(p.unseen) {
		p.must = time.Time{}
	}
	// Of those that stay, only the last to log in is surely in the file.
	p.unsure = p.unsure || p.held > 0 && (p.last == 0 || !written)
}

// probe lets all look until the returned function is called.
func probe(t *testing.T, all []*prober) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var probing sync.WaitGroup
	for _, p := range all {
		probing.Go(func() {
			for ctx.Err() == nil {
				if err := p.look(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(25 * time.Millisecond):
				}
			}
		})
	}
	return func() { cancel(); probing.Wait() }
}
