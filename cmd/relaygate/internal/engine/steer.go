package engine

import "relaygate/authz"

// Steering is what the tap must be told about a connection.
type Steering struct {
	// Conn is the connection as the tap knows it. Its cookie is never 0.
	Conn authz.Conn
	// Plaintext: record what passes through the TLS library, and no packets.
	// Without it nothing more is to be recorded of the connection.
	Plaintext bool
}

// Steer returns what the last Feed or Unread wants the tap to be told, in order.
func (r *Reader) Steer() []Steering { return r.steered }

func (r *Reader) steer(c authz.Conn, plaintext bool) {
	if c.Cookie != 0 {
		r.steered = append(r.steered, Steering{Conn: c, Plaintext: plaintext})
	}
}
