package control

import (
	"net/netip"

	"relaygate/authz"
	"relaygate/authz/grant"
)

// Grant is one line of list --json.
type Grant struct {
	Address  *netip.Addr   `json:"address,omitempty"`
	Prefix   *netip.Prefix `json:"prefix,omitempty"`
	Since    Time          `json:"since"`
	Expires  Time          `json:"expires"` // null: never
	Users    []Text        `json:"users"`
	Logins   int           `json:"logins"`
	Sessions int           `json:"sessions"`
	Source   string        `json:"source"`
	Protocol string        `json:"protocol"`
	TLS      bool          `json:"tls"`
	// By and Note are of who granted it by hand.
	By   string `json:"by,omitempty"`
	Note string `json:"note,omitempty"`
	// AsOf is set where no daemon answered: when the state was written that this is from.
	AsOf *Time `json:"as_of,omitempty"`
}

// NewGrant is g's shape.
func NewGrant(g *grant.Grant) Grant {
	out := Grant{
		Since: Time{g.Since}, Expires: Time{g.Expires}, Users: []Text{}, Logins: g.Logins,
		Sessions: g.Sessions, Source: g.Source.String(), TLS: g.TLS, By: g.By, Note: g.Note,
	}
	if g.Protocol != 0 {
		out.Protocol = g.Protocol.String()
	}
	if g.Prefix.IsSingleIP() {
		a := g.Prefix.Addr()
		out.Address = &a
	} else {
		p := g.Prefix
		out.Prefix = &p
	}
	for _, u := range g.Users {
		if u.Name != "" {
			out.Users = append(out.Users, Text(u.Name))
		}
	}
	return out
}

func (g *Grant) prefix() netip.Prefix {
	switch {
	case g.Address != nil:
		return netip.PrefixFrom(*g.Address, g.Address.BitLen())
	case g.Prefix != nil:
		return *g.Prefix
	}
	return netip.Prefix{}
}

// Name is the address or prefix as text.
func (g *Grant) Name() string {
	if g.Address != nil {
		return g.Address.String()
	}
	if g.Prefix != nil {
		return g.Prefix.String()
	}
	return ""
}

// Event is one thing that happened, as why and watch print it.
type Event struct {
	Event  string `json:"event"`
	Time   Time   `json:"time"`
	Client string `json:"client,omitempty"`
	Port   uint16 `json:"client_port,omitempty"`
	Server string `json:"server,omitempty"`
	// ServerPort belongs to Server, Port to Client.
	ServerPort uint16 `json:"server_port,omitempty"`
	Protocol   string `json:"protocol,omitempty"`
	Mechanism  Text   `json:"mechanism,omitempty"`
	User       Text   `json:"user,omitempty"`
	Answer     Text   `json:"answer,omitempty"`
	TLS        bool   `json:"tls,omitempty"`
	Until      *Time  `json:"until,omitempty"`
	// By is the administrator who caused it.
	By string `json:"by,omitempty"`
	// Count, First: a repeated event is kept once; Time is its last time.
	Count  int    `json:"count,omitempty"`
	First  *Time  `json:"first,omitempty"`
	Reason string `json:"reason"`
}

// Story is what why tells.
type Story struct {
	Address netip.Addr `json:"address"`
	Granted bool       `json:"granted"`
	// Reason says in words why the address may relay, or why not.
	Reason string  `json:"reason"`
	Grant  *Grant  `json:"grant,omitempty"`
	Events []Event `json:"events"`
	// Offline is set where no daemon answered; then Granted is what its state says.
	Offline *Offline `json:"offline,omitempty"`
}

// Status is what status tells.
type Status struct {
	Version string `json:"version"`
	Now     Time   `json:"now"`
	Since   Time   `json:"since"`
	// Problems are what a person should look at, in words.
	Problems []string `json:"problems"`
	Tap      Tap      `json:"tap"`
	Logins   uint64   `json:"logins"`
	Refused  uint64   `json:"refused"`
	Tainted  uint64   `json:"tainted"`
	// Doubts counts the tainted ones by reason.
	Doubts map[string]uint64 `json:"doubts"`
	// Encrypted connections show nothing.
	Encrypted uint64 `json:"encrypted"`
	// TLS says how far connections in TLS show something.
	TLS    TLS `json:"tls"`
	Grants int `json:"grants"`
	// Sessions hold a grant; Denials are in force.
	Sessions int `json:"sessions"`
	Denials  int `json:"denials"`
	// Shared counts the proved logins that granted nothing as their address has
	// too many users, Spread those whose user holds too many addresses.
	Shared uint64 `json:"shared"`
	Spread uint64 `json:"spread"`
	// Paused: nothing is granted.
	Paused *Pause `json:"paused,omitempty"`
	// Totals count since the state file was made.
	Totals map[string]uint64 `json:"totals"`
	State  State             `json:"state"`
	// Changes counts what happened to grants, by kind.
	Changes map[string]uint64 `json:"changes"`
	Gate    Gate              `json:"gate"`
	Files   []File            `json:"files"`
	// Drops counts what was left out for a bound, by the bound's name.
	Drops map[string]uint64 `json:"drops"`
	// Offline is set where no daemon answered: of the rest Problems, Grants, Denials,
	// Paused, Totals, State, Gate.Mode and Gate.Words are known then.
	Offline *Offline `json:"offline,omitempty"`
}

// Tap is the live tap.
type Tap struct {
	Kind  string   `json:"kind"`
	Where string   `json:"where"`
	POP3  []uint16 `json:"pop3"`
	IMAP  []uint16 `json:"imap"`
	// Flows are open now; Opened since the start; Untrusted were not believed.
	Flows     uint64 `json:"flows"`
	Opened    uint64 `json:"opened"`
	Untrusted uint64 `json:"untrusted"`
	Packets   uint64 `json:"packets"`
}

// Gate is the nftables table.
type Gate struct {
	Mode  string   `json:"mode"`
	Ports []uint16 `json:"ports"`
	// Words say what it does to whom, Lacks what this kernel cannot do of it,
	// Missing why there is no nftables.
	Words   string `json:"words"`
	Lacks   string `json:"lacks,omitempty"`
	Missing string `json:"missing,omitempty"`
	// Unfit says which static members the administrator's sets cannot hold.
	Unfit string `json:"unfit,omitempty"`
	// Up is false while the table is known to be missing, Behind true while the
	// kernel has not taken all that was decided.
	Up       bool   `json:"up"`
	Behind   bool   `json:"behind,omitempty"`
	Adds     uint64 `json:"adds"`
	Errors   uint64 `json:"errors"`
	Losses   uint64 `json:"losses"`
	Rebuilds uint64 `json:"rebuilds"`
	// LastLoss says in words what happened to the table last.
	LastLoss   string `json:"last_loss"`
	LastLossAt Time   `json:"last_loss_at"`
	// LastError is the last failure to write to it.
	LastError string `json:"last_error"`
	// Login to element acknowledged: the last and the longest.
	LastDelay Duration `json:"last_delay"`
	MaxDelay  Duration `json:"max_delay"`
	// The brakes refused connections of granted addresses: too many in a
	// minute, and too many at a time; LastBite is when last.
	TooFast  uint64 `json:"too_fast"`
	TooMany  uint64 `json:"too_many"`
	LastBite Time   `json:"last_bite"`
}

// Pause says who paused relaygate.
type Pause struct {
	Since Time   `json:"since"`
	By    string `json:"by"`
	Note  string `json:"note"`
}

// Denial is one line of list --denied --json.
type Denial struct {
	Prefix netip.Prefix `json:"prefix"`
	Since  Time         `json:"since"`
	Until  Time         `json:"until"` // null: for good
	By     string       `json:"by"`
	Note   string       `json:"note"`
	AsOf   *Time        `json:"as_of,omitempty"` // as that of a Grant
}

// State is the state file.
type State struct {
	Path    string `json:"path"`
	Written Time   `json:"written"`
	Records uint64 `json:"records"`
	Errors  uint64 `json:"errors"`
	Pending int    `json:"pending"`
	// Error is the last failure, "" after a write that was good.
	Error string `json:"error"`
	// Aside says what was put aside at the start.
	Aside string `json:"aside,omitempty"`
}

// File is one compatibility file.
type File struct {
	Path    string `json:"path"`
	Written Time   `json:"written"`
	Error   string `json:"error"`
	// Others says who besides root may write it; "" if nobody may.
	Others string `json:"others"`
	// Writes and Errors count since the start, and so does Changed, how often
	// somebody else had changed it, at ChangedAt last.
	Writes    uint64 `json:"writes"`
	Errors    uint64 `json:"errors"`
	Changed   uint64 `json:"changed"`
	ChangedAt Time   `json:"changed_at"`
}

// NewEvent is the shape of an event of the journal.
func NewEvent(e *authz.Event) Event {
	out := Event{
		Event: e.Kind.String(), Time: Time{e.Last},
		Mechanism: Text(e.Mechanism), User: Text(e.User), Answer: Text(e.Answer), TLS: e.TLS, By: e.By, Reason: e.Reason,
	}
	if e.Prefix.IsValid() { // a pause concerns all
		out.Client = authz.PrefixString(e.Prefix)
	}
	if e.Conn.Client.IsValid() {
		out.Client, out.Port = e.Conn.Client.Addr().String(), e.Conn.Client.Port()
		out.Server, out.ServerPort = e.Conn.Server.Addr().String(), e.Conn.Server.Port()
		if p := e.Conn.Service.Protocol; p != 0 { // of an untrusted listener nothing was read
			out.Protocol = p.String()
		}
	}
	if !e.Until.IsZero() {
		out.Until = &Time{e.Until}
	}
	if e.Count > 1 {
		out.Count, out.First = e.Count, &Time{e.Time}
	}
	return out
}

// changes are the changes of the grants as watch names them. Of the others nobody is told.
var changes = map[grant.Kind]string{
	grant.Granted: "grant", grant.Renewed: "renew", grant.Expired: "expire", grant.Revoked: "revoke", grant.Refused: "deny",
	grant.Denied: "deny", grant.Undenied: "undeny", grant.Paused: "pause", grant.Resumed: "resume",
}

// NewChange is the shape of a change of the grants.
func NewChange(c *grant.Change) Event {
	e := c.Event()
	e.Last = e.Time
	out := NewEvent(&e)
	if words := changes[c.Kind]; words != "" {
		out.Event = words
	}
	return out
}
