package engine

import (
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture/flow"
)

// Config says what to watch and how to grant.
type Config struct {
	Services map[uint16]authz.Service
	Grants   grant.Config
	Rules    authz.Rules
	// Confirm is asked about each login before it is believed; nil where the
	// tap shows that already.
	Confirm Confirm
	// Whole is asked with each login; nil where nothing can be missed untold.
	Whole Whole
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
	reader := newReader(flow.Config{Services: cfg.Services, Proxies: cfg.Rules.Proxies}, evidence)
	reader.confirm, reader.whole, reader.proxies = cfg.Confirm, cfg.Whole, cfg.Rules.Proxies
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
func (e *Engine) Admit(now time.Time, v *authz.Verdict, a *grant.Admission) bool {
	return v.Result == authz.Success && e.grants.Admit(now, v, a)
}

// Explain notes what an admitted login changed, and tells it.
func (e *Engine) Explain(a *grant.Admission) grant.Change {
	c := e.grants.Explain(a)
	e.count(&c)
	return c
}

// Expire closes what ran out.
func (e *Engine) Expire(now time.Time) []grant.Change { return e.Record(e.grants.Expire(now)) }

// SetHost puts the host's present network in force, and says what that closes
// and opens. On an error the old policy stays in force.
func (e *Engine) SetHost(now time.Time, h authz.Host) ([]grant.Change, error) {
	p, err := authz.NewPolicy(h, e.rules)
	if err != nil {
		return nil, err
	}
	e.host = h
	return e.Record(e.grants.SetPolicy(now, p)), nil
}

// SetRules puts other rules in force, and says what that closes and opens. On an
// error the former ones stay. The proxies that may announce clients stay as they
// are.
func (e *Engine) SetRules(now time.Time, r authz.Rules) ([]grant.Change, error) {
	former := e.rules
	e.rules = r
	e.rules.Proxies = former.Proxies
	changes, err := e.SetHost(now, e.host)
	if err != nil {
		e.rules = former
	}
	return changes, err
}

// Grants is the table. What changes in it, other than by what is here, is for Record.
func (e *Engine) Grants() *grant.Table { return e.grants }

// Record notes and counts what changed in the table, and returns it.
func (e *Engine) Record(changes []grant.Change) []grant.Change {
	for i := range changes {
		e.count(&changes[i])
	}
	return changes
}

// Evidence is the journal, which what is here and Record keep.
func (e *Engine) Evidence() *authz.Evidence { return e.evidence }

// Changes counts what happened to grants since New, by grant.Kind. Every kind is
// there from the start, so that a counter does not appear with its first event.
func (e *Engine) Changes() map[string]uint64 {
	changes := make(map[string]uint64)
	for k := grant.Granted; k <= grant.Resumed; k++ {
		changes[k.String()] = e.changes[k]
	}
	return changes
}

// count notes and counts a change.
func (e *Engine) count(c *grant.Change) {
	e.changes[c.Kind]++
	if c.Kind != grant.Rearmed && !vain(c) {
		e.evidence.Add(c.Event())
	}
}

// vain reports whether c is an order about a network that was refused: in the story of
// each address there it would tell nothing.
func vain(c *grant.Change) bool {
	p := c.Grant.Prefix
	whole := p.IsSingleIP() || p.Addr().Is6() && p.Bits() == 64 // what one client has
	return c.Kind == grant.Refused && c.By != "" && !whole
}
