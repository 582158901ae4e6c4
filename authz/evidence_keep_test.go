package authz

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// keptOf is what a journal knows about some prefixes.
func keptOf(e *Evidence, prefixes ...string) (all []Kept) {
	for _, p := range prefixes {
		var k Kept
		if e.Kept(netip.MustParsePrefix(p), &k) {
			all = append(all, k)
		}
	}
	return all
}

func TestKeepAndImport(t *testing.T) {
	const m = time.Minute
	e := NewEvidence(EvidenceConfig{})
	recorded(e, seen("203.0.113.7", "hunter2", Failure, 0))
	recorded(e, seen("203.0.113.7", "alice", Success, 1*m))
	e.Add(change(EventGranted, "203.0.113.7/32", 1*m, 31*m))
	recorded(e, seen("203.0.113.7", "alice", Success, 2*m))
	e.Add(change(EventRenewed, "203.0.113.7/32", 2*m, 32*m))
	recorded(e, seen("203.0.113.8", "hunter3", Failure, 3*m))
	e.Add(change(EventDenied, "203.0.113.9/32", 4*m, 0))
	var kept []Kept
	for _, k := range keptOf(e, "203.0.113.7/32", "203.0.113.8/32", "203.0.113.9/32") {
		data, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(k.Notes), "hunter") {
			t.Errorf("a password is kept: %q", k.Notes)
		}
		var back Kept
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, back)
	}
	again := NewEvidence(EvidenceConfig{})
	again.Import(start.Add(5*m), slices.Values(kept))
	for _, client := range []string{"203.0.113.7", "203.0.113.8", "203.0.113.9"} {
		story(t, again, client, 5*m, tell(e.Story(netip.MustParseAddr(client), start.Add(5*m))))
	}
	if n := held(again); n != [2]int{2, 1} {
		t.Errorf("%d granted and others are held", n)
	}
	// A name that has succeeded is known again.
	recorded(again, seen("203.0.113.8", "Alice", Failure, 6*m))
	story(t, again, "203.0.113.8", 6*m, "failure (masked), failure alice")
	story(t, again, "203.0.113.7", 24*60*m+32*m, tell(e.Story(netip.MustParseAddr("203.0.113.7"), start.Add(5*m))))
	story(t, again, "203.0.113.7", 24*60*m+33*m, "")
}

// keep adds an event to the notes.
func (k *Kept) keep(ev Event) {
	ev.bound()
	k.Notes = appendNote(k.Notes, &ev)
}

func TestImportIsBounded(t *testing.T) {
	e := NewEvidence(EvidenceConfig{Earned: 2, Strangers: 1})
	long := strings.Repeat("x", 10000)
	var kept []Kept
	for i, p := range []string{"203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32", "203.0.113.1/32"} {
		k := Kept{Prefix: netip.MustParsePrefix(p), Earned: i < 3}
		for range 100 {
			for kind := EventLogin; kind <= EventUndenied; kind++ {
				k.keep(Event{Kind: kind, Time: start, Last: start, Reason: long, User: long, Answer: long, Mechanism: long, By: long})
			}
		}
		kept = append(kept, k)
	}
	old := Kept{Prefix: netip.MustParsePrefix("203.0.113.9/32")}
	old.keep(Event{Kind: EventLogin, Time: start.Add(-1000 * time.Hour)})
	kept = append(kept, Kept{}, old)
	e.Import(start, slices.Values(kept))
	if n := held(e); n != [2]int{2, 1} {
		t.Errorf("%d granted and others are held", n)
	}
	for _, k := range keptOf(e, "203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32") {
		events, err := k.Events()
		if len(events) == 0 || len(events) > decisionsKept+doubtsKept || err != nil {
			t.Errorf("%d events are kept, %v", len(events), err)
		}
		for _, ev := range events {
			if len(ev.Reason)+len(ev.User)+len(ev.Answer)+len(ev.Mechanism)+len(ev.By) > 2000 {
				t.Errorf("a text is not bounded: %+v", ev)
			}
		}
	}
}

func TestPauseIsInEachStory(t *testing.T) {
	e := NewEvidence(EvidenceConfig{})
	recorded(e, seen("203.0.113.7", "alice", Success, 0))
	for i := range 100 {
		e.Add(Event{Kind: EventPaused, Time: start.Add(time.Duration(i) * time.Minute), By: "root (uid 0)"})
	}
	e.Add(Event{Kind: EventResumed, Time: start.Add(200 * time.Minute)})
	if got := e.Story(netip.MustParseAddr("203.0.113.7"), start); len(got) != 1+decisionsKept || got[len(got)-1].Kind != EventResumed {
		t.Errorf("the story has %d events", len(got))
	}
	story(t, e, "203.0.113.8", 0, "")
	e.Add(Event{Time: start}) // nothing happened
}
