package engine

import "relaygate/authz"

// Steering is what the tap must be told about a connection.
type Steering struct {
	// Conn is the connection as the tap knows it. Its cookie is never 0.
	Conn   authz.Conn
	Course Course
}

// Course is what the tap is to do with a connection.
type Course uint8

const (
	// Done: record nothing more; its end is to be told all the same.
	Done Course = iota + 1
	// Plaintext: record what passes through the TLS library, and no packets.
	Plaintext
	// Forget: it is not followed, so that its place can be another's.
	Forget
)

// Steer returns what the last Feed or Unread wants the tap to be told, in order.
func (r *Reader) Steer() []Steering { return r.steered }

func (r *Reader) steer(c authz.Conn, course Course) {
	if c.Cookie != 0 {
		r.steered = append(r.steered, Steering{c, course})
	}
}
