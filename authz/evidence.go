package authz

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// EvidenceConfig bounds an Evidence. A zero field takes its default.
type EvidenceConfig struct {
	// Retain is how long an address is explained after its last event, or
	// after its grant ran out (24 h).
	Retain time.Duration
	// Earned bounds the prefixes that were granted (32,768), Strangers all
	// others (4,096), Users the names that are known (65,536).
	Earned, Strangers, Users int
	// NamesOnly keeps the proved names and no stories: enough for the mask, which
	// then takes out answers whole.
	NamesOnly bool
}

// Evidence is the journal that explains each address: bounded, in memory, and
// without secrets. What was granted has a pool of its own, so that no flood
// pushes it out: neither failures, nor the logins of one user from everywhere,
// of which the table grants only a few.
//
// It is not safe for concurrent use.
type Evidence struct {
	cfg               EvidenceConfig
	earned, strangers pool
	users             names // as first proved
	// general are events that concern every address.
	general []Event
	// late is the event of the last verdict, of Kind 0 if it has been noted; text is
	// room for a note.
	late Event
	text []byte
}

// EvidenceDropped says what the bounds of an Evidence cost: Earned and Strangers count
// addresses forgotten, or not noted, before their time, Users names not kept.
type EvidenceDropped struct{ Earned, Strangers, Users uint64 }

// NewEvidence makes an empty journal.
func NewEvidence(cfg EvidenceConfig) *Evidence {
	cfg.Retain = cmp.Or(cfg.Retain, 24*time.Hour)
	cfg.Earned = cmp.Or(cfg.Earned, 32768)
	cfg.Strangers = cmp.Or(cfg.Strangers, 4096)
	cfg.Users = cmp.Or(cfg.Users, 65536)
	return &Evidence{
		cfg:       cfg,
		earned:    newPool(cfg.Earned),
		strangers: newPool(cfg.Strangers),
		users:     names{most: cfg.Users},
	}
}

// SetRetain changes how long an address is explained; see EvidenceConfig.
func (e *Evidence) SetRetain(d time.Duration) { e.cfg.Retain = cmp.Or(d, e.cfg.Retain) }

// Record notes a verdict about its client's address, and takes out of it what
// could be a secret (mask): everything that is stored, logged or sent on goes
// through here. Whoever waits for the verdict need not wait for the note, which
// is written when the journal is used next.
func (e *Evidence) Record(v *Verdict) {
	e.settle()
	if v.Result == Success && CheckLogin(v).Allow {
		e.learn(cut(v.User, UserLimit))
	}
	mask(v, &e.users, !e.cfg.NamesOnly)
	if e.cfg.NamesOnly {
		return
	}
	client, err := normalAddr(v.Conn.Client.Addr())
	if err != nil {
		return
	}
	e.late = Event{
		Kind:      resultKind(v.Result),
		Time:      v.Time,
		Prefix:    single(client),
		Conn:      v.Conn,
		Mechanism: v.Mechanism,
		User:      v.User,
		Answer:    v.Answer,
		TLS:       v.TLS,
		Reason:    announced(v),
	}
}

// settle writes the note that is late.
func (e *Evidence) settle() {
	if e.late.Kind == 0 {
		return
	}
	e.add(&e.late)
	e.late = Event{}
}

// announced is the verdict's reason, with the proxy that announced its client.
func announced(v *Verdict) string {
	if !v.Proxy.IsValid() {
		return v.Reason
	}
	words := "announced by proxy " + v.Proxy.String()
	if v.Reason == "" {
		return words
	}
	return v.Reason + " (" + words + ")"
}

// Add notes an event about its prefix, for instance what the table of grants
// did. User and Answer must come out of Record or of the table.
func (e *Evidence) Add(ev Event) {
	if ev.Kind == EventPaused || ev.Kind == EventResumed {
		e.settle()
		ev.Last, ev.Count = ev.Time, 1
		ev.bound()
		e.general = append(e.general[max(len(e.general)-decisionsKept+1, 0):], ev)
		return
	}
	prefix, err := NormalPrefix(ev.Prefix)
	if err != nil || e.cfg.NamesOnly {
		e.settle()
		return
	}
	ev.Prefix = prefix
	if ev.Kind.concernsGrant() && e.late.Kind != 0 && e.late.Prefix == prefix && e.earn(placeOf(prefix), ev.Time) == nil {
		e.settle()
		return
	} // else the login's place is what it earned
	e.settle()
	e.add(&ev)
}

func (e *Evidence) add(ev *Event) {
	ev.Count = max(ev.Count, 1)
	if ev.Last.IsZero() {
		ev.Last = ev.Time
	}
	ev.bound()
	e.prune(ev.Time)
	at := placeOf(ev.Prefix)
	r := e.earned.touch(at)
	switch {
	case r != nil:
	case ev.Kind.concernsGrant():
		r = e.earn(at, ev.Time)
	default:
		if r = e.strangers.touch(at); r == nil {
			r = e.strangers.insert(at, ev.Time)
		}
	}
	if r != nil {
		e.text = appendNote(e.text[:0], ev)
		r.note(ev, e.text)
	}
}

// earn is the record of what was granted, with what was known before; nil if there
// is no room.
func (e *Evidence) earn(at place, now time.Time) *record {
	if r := e.earned.find(at); r != nil {
		return r
	}
	r := e.earned.insert(at, now)
	if i := e.strangers.number(at); r != nil && i != 0 {
		before := &e.strangers.records[i]
		r.decisions, r.doubts, r.last = append(r.decisions, before.decisions...), append(r.doubts, before.doubts...), before.last
		e.strangers.remove(i)
	}
	return r
}

// learn keeps a proved name, so that later failures of it need no mask.
func (e *Evidence) learn(name string) {
	if name != "" {
		e.users.put(name)
	}
}

// prune forgets what is older than it has to be.
func (e *Evidence) prune(now time.Time) {
	e.earned.prune(now, e.cfg.Retain)
	e.strangers.prune(now, e.cfg.Retain)
}

// Story is all that is known about an address, in the order of the events' last times:
// its own, those of each prefix that holds it, and those of every address. It is empty
// if the address was never seen, or too long ago.
func (e *Evidence) Story(a netip.Addr, now time.Time) []Event {
	e.settle()
	a, err := normalAddr(a)
	if err != nil {
		return nil
	}
	var story []Event
	for _, p := range []*pool{&e.earned, &e.strangers} {
		for bits := range a.BitLen() + 1 {
			if p.lengths[family(a)][bits] == 0 {
				continue
			}
			r := p.find(placeOf(netip.PrefixFrom(a, bits).Masked()))
			if r == nil || r.stale(now.UnixNano(), e.cfg.Retain) {
				continue
			}
			story = r.events(story)
		}
	}
	if len(story) > 0 {
		story = append(story, e.general...)
	}
	slices.SortStableFunc(story, func(a, b Event) int {
		// At one moment the narrowest comes first: the login, then its /64.
		return cmp.Or(a.Last.Compare(b.Last), cmp.Compare(b.Prefix.Bits(), a.Prefix.Bits()))
	})
	return story
}

// Dropped says what was left out.
func (e *Evidence) Dropped() EvidenceDropped {
	e.settle()
	e.users.settle()
	return EvidenceDropped{e.earned.dropped, e.strangers.dropped, e.users.refused}
}
