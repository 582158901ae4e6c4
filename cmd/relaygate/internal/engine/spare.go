package engine

import "relaygate/authz"

// spare keeps the memory of dialogues that ended for those to come, by protocol: most of
// what a busy host allocates. A Reset overwrites all that one held, when it ends.
type spare [authz.IMAP + 1][]lasting

// lasting is a dialogue that can begin anew.
type lasting interface {
	dialogue
	Reset()
}

// maxSpare bounds the dialogues of each protocol that are kept.
const maxSpare = 256

// take makes the reader of one connection.
func (s *spare) take(service authz.Service) dialogue {
	if service.ImplicitTLS {
		return &tlsDialogue{}
	}
	list := &s[service.Protocol]
	last := len(*list) - 1
	if last < 0 {
		return clearDialogue(service.Protocol, false)
	}
	d := (*list)[last]
	*list = (*list)[:last]
	return d
}

// keep takes a dialogue of a protocol back, which nobody may use any more.
func (s *spare) keep(p authz.Protocol, d dialogue) {
	if d, ok := d.(lasting); ok {
		if d.Reset(); len(s[p]) < maxSpare {
			s[p] = append(s[p], d)
		}
	}
}
