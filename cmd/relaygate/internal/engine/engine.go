package engine

import (
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
)

// Config says what to watch and how to grant.
type Config struct {
	Services map[uint16]authz.Service
	Grants   grant.Config
	Rules    authz.Rules
	// Confirm is asked about each login before it is believed; nil where the
	// tap shows that already.
	Confirm Confirm
	// TLS follows connections into TLS: the tap hands on Handshake and Plain
	// events. Explain says why the plaintext of one is not seen; it may be nil.
	TLS     bool
	Explain func(authz.Conn) string
	// Retain is how long an address is explained after its last event; 0 is a
	// day.
	Retain time.Duration
}

// Engine decides about what a Reader reads. Until SetHost it grants nothing:
// the host's own addresses must be known first.
type Engine struct {
	*Reader
	rules    authz.Rules
	host     authz.Host // of the last SetHost
	evidence *authz.Evidence
	grants   *grant.Table
	changes  [grant.Resumed + 1]uint64 // by grant.Kind
}

// New makes an Engine.
func New(cfg Config) *Engine {
	evidence := authz.NewEvidence(authz.EvidenceConfig{Retain: cfg.Retain})
	reader := NewReader(cfg.Services, evidence)
	reader.confirm, reader.proxies = cfg.Confirm, cfg.Rules.Proxies
	if cfg.TLS {
		reader.FollowTLS(cfg.Explain)
	}
	return &Engine{
		Reader:   reader,
		rules:    cfg.Rules,
		evidence: evidence,
		grants:   grant.New(cfg.Grants),
	}
}

// Admit judges a verdict of Feed, into a. It reports false if nothing changed
// and there is nothing to say; else Explain must be called next. now carries a
// monotonic reading in a daemon.
func (e *Engine) Admit(now time.Time, v *Verdict, a *grant.Admission) bool {
	return v.Result == authz.Success && e.grants.Admit(now, &v.Verdict, a)
}

// Explain notes what an admitted login changed, and tells it.
func (e *Engine) Explain(a *grant.Admission) grant.Change {
	c := e.grants.Explain(a)
	e.count(&c)
	return c
}

// Expire closes what ran out.
func (e *Engine) Expire(now time.Time) []grant.Change { return e.note(e.grants.Expire(now)) }

// SetHost puts the host's present network in force, and says what that closes
// and opens. On an error the old policy stays in force.
func (e *Engine) SetHost(now time.Time, h authz.Host) ([]grant.Change, error) {
	p, err := authz.NewPolicy(h, e.rules)
	if err != nil {
		return nil, err
	}
	e.host = h
	return e.note(e.grants.SetPolicy(now, p)), nil
}

// Import takes over what the kernel held before the start.
func (e *Engine) Import(now time.Time, a netip.Addr, remaining time.Duration) (grant.Change, bool) {
	c, ok := e.grants.Import(now, a, remaining)
	if ok {
		e.count(&c)
	}
	return c, ok
}

// Change lets do read and change the table of grants, and notes what it says it
// did.
func (e *Engine) Change(do func(*grant.Table) []grant.Change) []grant.Change {
	return e.note(do(e.grants))
}

func (e *Engine) note(changes []grant.Change) []grant.Change {
	for i := range changes {
		e.count(&changes[i])
	}
	return changes
}

// Note adds what another than a verdict or a grant tells to the journal.
func (e *Engine) Note(ev authz.Event) { e.evidence.Add(ev) }

// Next is when Expire has something to do; false if never.
func (e *Engine) Next() (time.Time, bool) { return e.grants.Next() }

// Get finds what lets an address relay.
func (e *Engine) Get(a netip.Addr) (grant.Grant, bool)            { return e.grants.Get(a) }
func (e *Engine) Len() int                                        { return e.grants.Len() }
func (e *Engine) Check(a netip.Addr) authz.Decision               { return e.grants.Check(a) }
func (e *Engine) EvidenceCounts() authz.EvidenceCounts            { return e.evidence.Counts() }
func (e *Engine) Story(a netip.Addr, now time.Time) []authz.Event { return e.evidence.Story(a, now) }
