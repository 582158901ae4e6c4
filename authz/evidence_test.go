package authz

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func seen(client, user string, r Result, when time.Duration) Verdict {
	v := goodVerdict()
	v.Conn.Client = netip.AddrPortFrom(netip.MustParseAddr(client), 51234)
	v.User, v.Result, v.Time = user, r, start.Add(when)
	switch r {
	case Failure:
		v.Answer, v.Reason = "-ERR [AUTH] "+user+" is unknown", "the server refused the login"
	case Tainted, Encrypted:
		v.Answer, v.Reason = "", r.String()
	default:
	}
	return v
}

// recorded lets e note a verdict, and returns what is left of it.
func recorded(e *Evidence, v Verdict) Verdict {
	e.Record(&v)
	return v
}

// tell is a story in short: "login×2 alice, failure (masked)".
func tell(story []Event) string {
	var parts []string
	for _, e := range story {
		s := e.Kind.String()
		if e.Count > 1 {
			s += fmt.Sprint("×", e.Count)
		}
		if e.User != "" {
			s += " " + e.User
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, ", ")
}

func story(t *testing.T, e *Evidence, client string, when time.Duration, want string) {
	t.Helper()
	if got := tell(e.Story(netip.MustParseAddr(client), start.Add(when))); got != want {
		t.Errorf("the story of %s after %v is %q, want %q", client, when, got, want)
	}
}

func change(kind EventKind, prefix string, when, until time.Duration) Event {
	return Event{
		Kind: kind, Prefix: netip.MustParsePrefix(prefix), Time: start.Add(when),
		Until: start.Add(until), User: "alice", Reason: kind.String(),
	}
}

func TestStory(t *testing.T) {
	e := NewEvidence(EvidenceConfig{})
	story(t, e, "203.0.113.7", 0, "")
	if got := e.Story(netip.Addr{}, start); got != nil {
		t.Errorf("the story of no address: %v", got)
	}
	const m = time.Minute
	recorded(e, seen("203.0.113.7", "hunter2", Failure, 0))
	recorded(e, seen("203.0.113.7", "hunter3", Failure, 1*m))
	recorded(e, seen("203.0.113.7", "alice", Success, 2*m))
	e.Add(change(EventGranted, "203.0.113.7/32", 2*m, 32*m))
	recorded(e, seen("203.0.113.7", "ALICE", Failure, 3*m))
	for i := range 5 {
		recorded(e, seen("::ffff:203.0.113.7", "alice", Success, time.Duration(4+i)*m))
		e.Add(change(EventRenewed, "203.0.113.7/32", time.Duration(4+i)*m, time.Duration(34+i)*m))
	}
	recorded(e, seen("203.0.113.7", "", Tainted, 9*m))
	e.Add(change(EventExpired, "203.0.113.7/32", 38*m, 38*m))
	recorded(e, seen("203.0.113.7", "alice", Success, 60*m))
	want := "failure×2 (masked), login alice, granted alice, failure alice, login×5 alice, renewed×5 alice, tainted, expired alice, login alice"
	story(t, e, "203.0.113.7", 61*m, want)
	story(t, e, "203.0.113.8", 61*m, "")
	got := e.Story(netip.MustParseAddr("203.0.113.7"), start.Add(61*m))
	if r := got[5]; !r.Time.Equal(start.Add(4*m)) || !r.Last.Equal(start.Add(8*m)) || !r.Until.Equal(start.Add(38*m)) {
		t.Errorf("renewed: %+v", r)
	}
	if f := got[0]; f.Answer != "-ERR [AUTH]" || f.Conn.Client.Port() != 51234 || f.Mechanism != "USER" {
		t.Errorf("failure: %+v", f)
	}
}

// What was repeated stands where it was seen last: the last thing that happened to an
// address is the last of its story.
func TestStoryIsInTheOrderOfTheLastTimes(t *testing.T) {
	e := NewEvidence(EvidenceConfig{})
	const m = time.Minute
	refused := func(when time.Duration) {
		e.Add(Event{Kind: EventRefused, Prefix: netip.MustParsePrefix("203.0.113.7/32"), Time: start.Add(when), Reason: "too many users"})
	}
	recorded(e, seen("203.0.113.7", "alice", Success, 0))
	e.Add(change(EventGranted, "203.0.113.7/32", 0, 30*m))
	refused(1 * m)
	e.Add(change(EventRenewed, "203.0.113.7/32", 2*m, 32*m))
	refused(3 * m)
	story(t, e, "203.0.113.7", 4*m, "login alice, granted alice, renewed alice, refused×2")
}

func TestStoryOfAPrefix(t *testing.T) {
	e := NewEvidence(EvidenceConfig{})
	recorded(e, seen("2001:db8::7", "alice", Success, 0))
	e.Add(change(EventGranted, "2001:db8::/64", 0, time.Hour))
	e.Add(change(EventGranted, "203.0.113.0/24", 0, time.Hour))
	story(t, e, "2001:db8::7", time.Minute, "login alice, granted alice")
	story(t, e, "2001:db8::8", time.Minute, "granted alice")
	story(t, e, "2001:db8:0:1::7", time.Minute, "")
	story(t, e, "::ffff:203.0.113.9", time.Minute, "granted alice")
	e.Add(Event{Kind: EventGranted}) // no prefix: nothing to note
	if n := held(e); n != [2]int{2, 1} {
		t.Errorf("%d granted and others are held", n)
	}
}

// held counts the prefixes that were granted, and the others.
func held(e *Evidence) [2]int {
	e.settle()
	return [2]int{e.earned.n(), e.strangers.n()}
}

func TestRetention(t *testing.T) {
	const h = time.Hour
	e := NewEvidence(EvidenceConfig{})
	recorded(e, seen("203.0.113.1", "x", Failure, 0))
	recorded(e, seen("203.0.113.2", "alice", Success, 0))
	e.Add(change(EventGranted, "203.0.113.2/32", 0, 10*h))
	open := change(EventGranted, "192.0.2.0/24", 0, 0)
	open.Until, open.Open = time.Time{}, true
	e.Add(open)
	recorded(e, seen("203.0.113.3", "alice", Success, 0))
	e.Add(change(EventGranted, "203.0.113.3/32", 0, 30*h))
	e.Add(change(EventRevoked, "203.0.113.3/32", 1*h, 30*h))

	story(t, e, "203.0.113.1", 24*h, "failure (masked)")
	story(t, e, "203.0.113.1", 24*h+1, "")
	story(t, e, "203.0.113.3", 25*h+1, "")
	story(t, e, "203.0.113.2", 34*h, "login alice, granted alice") // a day after it ran out
	story(t, e, "203.0.113.2", 34*h+1, "")
	story(t, e, "192.0.2.7", 1000*h, "granted alice")
	e.prune(start.Add(1000 * h))
	if n, d := held(e), e.Dropped(); n != [2]int{1, 0} || d != (EvidenceDropped{}) {
		t.Errorf("after pruning, %d granted and others are held; %+v", n, d)
	}
}

func TestStrangersCannotPushOutWhatWasEarned(t *testing.T) {
	e := NewEvidence(EvidenceConfig{Earned: 4, Strangers: 8})
	recorded(e, seen("203.0.113.7", "alice", Success, 0))
	e.Add(change(EventGranted, "203.0.113.7/32", 0, time.Hour))
	for i := range 1000 {
		when := time.Duration(i) * time.Second
		recorded(e, seen(fmt.Sprintf("198.51.100.%d", i%250), fmt.Sprint("user", i), Failure, when))
		v := seen("198.51.101.1", "ftp", Success, when)
		v.Anonymous = true
		v.Conn.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1)
		recorded(e, v)
		// One user from everywhere: the table refuses most of these.
		v.Anonymous, v.Mechanism, v.User = false, "USER", "mallory"
		v.Conn.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), 1)
		recorded(e, v)
		e.Add(Event{Kind: EventRefused, Time: v.Time, Prefix: single(v.Conn.Client.Addr()), Reason: "too many"})
		// Also from behind the very address.
		f := seen("203.0.113.7", fmt.Sprint("user", i), Failure, when)
		f.Reason = fmt.Sprint("reason ", i)
		recorded(e, f)
	}
	got := e.Story(netip.MustParseAddr("203.0.113.7"), start.Add(time.Hour))
	if s := tell(got); !strings.HasPrefix(s, "login alice, granted alice, failure") || len(got) != 2+doubtsKept {
		t.Errorf("the story is %q", s)
	}
	if n, d := held(e), e.Dropped(); n != [2]int{1, 8} || d.Strangers == 0 || d.Earned != 0 {
		t.Errorf("%d granted and others are held; %+v", n, d)
	}
}

func TestStandingGrantsAreNotForgotten(t *testing.T) {
	e := NewEvidence(EvidenceConfig{Earned: 3})
	e.Add(change(EventRevoked, "203.0.113.1/32", 0, 0))
	e.Add(change(EventGranted, "203.0.113.2/32", 0, time.Hour))
	e.Add(change(EventGranted, "203.0.113.3/32", 0, time.Hour))
	e.Add(change(EventGranted, "203.0.113.4/32", time.Minute, time.Hour))
	e.Add(change(EventGranted, "203.0.113.5/32", time.Minute, time.Hour)) // no room
	for addr, want := range map[string]string{
		"203.0.113.1": "", "203.0.113.2": "granted alice", "203.0.113.3": "granted alice",
		"203.0.113.4": "granted alice", "203.0.113.5": "",
	} {
		story(t, e, addr, 2*time.Minute, want)
	}
	if n, d := held(e), e.Dropped(); n[0] != 3 || d.Earned != 2 {
		t.Errorf("%d granted and others are held; %+v", n, d)
	}
}

// Where all grants stand one insertion in many looks for a place, and finds it once they
// have ended.
func TestPlacesAreLookedForNowAndThen(t *testing.T) {
	const limit = 3 * evictionTries
	e := NewEvidence(EvidenceConfig{Earned: limit})
	add := func(i int, when, until time.Duration) {
		e.Add(change(EventGranted, fmt.Sprintf("203.0.113.%d/32", i), when, until))
	}
	for i := range limit {
		add(i, 0, time.Hour)
	}
	searches, oldest := 0, e.earned.oldest()
	const more = 2*(evictionTries+1) + 1
	for i := range more {
		add(limit+i, time.Minute, 3*time.Hour)
		if o := e.earned.oldest(); o != oldest {
			searches, oldest = searches+1, o
		}
	}
	if d := e.Dropped().Earned; searches != 3 || d != more {
		t.Errorf("%d searches, and %d without a place", searches, d)
	}
	for i := range evictionTries + 1 {
		add(200+i, 2*time.Hour, 3*time.Hour)
	}
	story(t, e, "203.0.113.216", 2*time.Hour, "granted alice")
	if n := held(e)[0]; n != limit {
		t.Errorf("%d are held, want %d", n, limit)
	}
}

func TestManyEventsOfOneAddress(t *testing.T) {
	e := NewEvidence(EvidenceConfig{})
	e.Add(change(EventGranted, "203.0.113.7/32", 0, 10*time.Hour))
	for i := range 100 {
		recorded(e, seen("203.0.113.7", fmt.Sprint("user", i), Success, time.Duration(i)*time.Second))
	}
	got := e.Story(netip.MustParseAddr("203.0.113.7"), start.Add(time.Hour))
	if len(got) != decisionsKept || got[0].Kind != EventGranted || got[len(got)-1].User != "user99" {
		t.Errorf("the story is %q", tell(got))
	}
}

func TestLongTextIsCut(t *testing.T) {
	e := NewEvidence(EvidenceConfig{})
	v := seen("203.0.113.7", strings.Repeat("u", 10_000), Success, 0)
	v.Answer, v.Reason = "+OK "+strings.Repeat("a", 10_000), strings.Repeat("r", 10_000)
	recorded(e, v)
	got := e.Story(netip.MustParseAddr("203.0.113.7"), start)[0]
	if len(got.User) != UserLimit || len(got.Answer) != AnswerLimit || len(got.Reason) != reasonLimit {
		t.Errorf("%d, %d and %d bytes are kept", len(got.User), len(got.Answer), len(got.Reason))
	}
}

func TestEventKindNames(t *testing.T) {
	names := map[string]bool{}
	for k := EventLogin; k <= EventSet; k++ {
		names[k.String()] = true
	}
	if len(names) != int(EventSet) || names["unknown"] {
		t.Errorf("names: %v", names)
	}
}

func BenchmarkRecord(b *testing.B) {
	e := NewEvidence(EvidenceConfig{})
	v := seen("203.0.113.7", "alice", Failure, 0)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		v.Conn.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
		recorded(e, v)
	}
}
