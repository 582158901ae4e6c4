package engine

import (
	"relaygate/authz"
	"relaygate/authz/imap"
	"relaygate/authz/pop3"
)

// spare keeps the memory of dialogues that ended for those to come: most of what
// a busy host allocates. A Reset overwrites all that one held, when it ends.
type spare struct {
	pop3 []*pop3.Dialogue
	imap []*imap.Dialogue
}

// maxSpare bounds the dialogues of each kind that are kept.
const maxSpare = 256

// take makes the reader of one connection.
func (s *spare) take(service authz.Service) dialogue {
	switch {
	case service.ImplicitTLS:
	case service.Protocol == authz.POP3 && len(s.pop3) > 0:
		d := s.pop3[len(s.pop3)-1]
		s.pop3 = s.pop3[:len(s.pop3)-1]
		return d
	case service.Protocol == authz.IMAP && len(s.imap) > 0:
		d := s.imap[len(s.imap)-1]
		s.imap = s.imap[:len(s.imap)-1]
		return d
	}
	return newDialogue(service)
}

// keep takes a dialogue back, which nobody may use any more.
func (s *spare) keep(d dialogue) {
	switch d := d.(type) {
	case *pop3.Dialogue:
		if d.Reset(); len(s.pop3) < maxSpare {
			s.pop3 = append(s.pop3, d)
		}
	case *imap.Dialogue:
		if d.Reset(); len(s.imap) < maxSpare {
			s.imap = append(s.imap, d)
		}
	}
}
