package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"unicode/utf8"

	"relaygate/authz"
)

// The verbs that change something.
const (
	VerbGrant  = "grant"
	VerbRevoke = "revoke"
	VerbDeny   = "deny"
	VerbUndeny = "undeny"
	VerbPause  = "pause"
	VerbResume = "resume"
	VerbReload = "reload"
)

var verbs = []string{VerbGrant, VerbRevoke, VerbDeny, VerbUndeny, VerbPause, VerbResume, VerbReload}

// Order is what root asks to be changed.
type Order struct {
	Verb string `json:"-"`
	// Prefix is meant by all but pause, resume and reload.
	Prefix netip.Prefix `json:"prefix"`
	// For is how long a grant or a denial lasts; 0 is the lifetime of a login,
	// and for good.
	For Duration `json:"for"`
	// KeepConnections leaves SMTP connections in progress alone.
	KeepConnections bool `json:"keep_connections,omitempty"`
	// Note says why, in the words of who ordered it.
	Note string `json:"note,omitempty"`
}

// Outcome is what an order did. When it is answered, the gate has done it.
type Outcome struct {
	// Changes of grants and denials, as watch tells them.
	Changes []Event `json:"changes"`
	// Sockets and Entries count the connections that were ended: sockets of
	// this host, and entries of connection tracking.
	Sockets int `json:"sockets"`
	Entries int `json:"entries"`
	// Warnings are what a person should know besides, in words.
	Warnings []string `json:"warnings"`
	// Result says in words what holds now.
	Result string `json:"result"`
}

// Refusal is an order that cannot be done, with the reason in words.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return r.Reason }

// maxNote bounds a note, in bytes; it is never cut where it is shown.
const maxNote = 200

// check says what is wrong with an order, before the daemon sees it.
func (o *Order) check() error {
	needsPrefix := o.Verb != VerbPause && o.Verb != VerbResume && o.Verb != VerbReload
	switch {
	case !slices.Contains(verbs, o.Verb):
		return fmt.Errorf("there is no order %q", o.Verb)
	case needsPrefix && !o.Prefix.IsValid():
		return errors.New("an address or a prefix is missing")
	case !needsPrefix && o.Prefix.IsValid():
		return fmt.Errorf("%s is for all addresses", o.Verb)
	case o.For.Duration < 0:
		return errors.New("a time must be positive")
	case o.For.Duration > 0 && o.Verb != VerbGrant && o.Verb != VerbDeny:
		return fmt.Errorf("%s has no time to run out", o.Verb)
	case len(o.Note) > maxNote:
		return fmt.Errorf("the note is longer than %d bytes", maxNote)
	case !utf8.ValidString(o.Note) || authz.QuoteWords(o.Note) != o.Note:
		return errors.New("the note holds characters that are not printable, or that act on who reads it")
	}
	if !needsPrefix {
		return nil
	}
	n, err := authz.NormalPrefix(o.Prefix)
	if err != nil {
		return err
	}
	o.Prefix = n
	return nil
}

// order answers a verb that changes something: for uid 0 alone.
func order(d Daemon, verb string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		by, ok := orderer(r.Context())
		if !ok {
			http.Error(w, "only root may change anything: run this as root", http.StatusForbidden)
			return
		}
		o := Order{Verb: verb}
		dec := json.NewDecoder(r.Body)
		dec.DisallowUnknownFields()
		err := dec.Decode(&o)
		if err == nil {
			err = o.check()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := d.Order(r.Context(), by, o)
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			http.Error(w, refusal.Reason, http.StatusUnprocessableEntity)
			return
		}
		reply(w, out, err)
	}
}

// Order asks the daemon to change something, and waits until it is done.
func (c *Client) Order(ctx context.Context, o Order) (Outcome, error) {
	if err := o.check(); err != nil {
		return Outcome{}, &Refusal{err.Error()}
	}
	order, err := json.Marshal(o)
	if err != nil {
		return Outcome{}, fmt.Errorf("ask relaygate: %w", err)
	}
	return answer[Outcome](ctx, c, http.MethodPost, "/v1/"+o.Verb, bytes.NewReader(order))
}
