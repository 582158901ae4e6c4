package engine

// Steering is what the tap must be told about a connection.
type Steering struct {
	// Cookie is the socket's cookie, never 0.
	Cookie uint64
	// Plaintext: record what passes through the TLS library, and no packets.
	// Without it nothing more is to be recorded of the connection.
	Plaintext bool
}

// Steer returns what the last Feed or Unread wants the tap to be told, in order.
func (r *Reader) Steer() []Steering { return r.steered }

func (r *Reader) steer(cookie uint64, plaintext bool) {
	if cookie != 0 {
		r.steered = append(r.steered, Steering{Cookie: cookie, Plaintext: plaintext})
	}
}
