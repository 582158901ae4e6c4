// Package traffic makes captures of mail sessions for benchmarks: POP3 and IMAP
// logins that succeed, fail, or go on in TLS, downloads behind them, other
// traffic beside them, segments that are lost or come out of order. The same
// Profile always gives the same bytes, and the truth about them.
package traffic

import (
	"math"
	"math/rand/v2"
	"net/netip"
)

// Profile says what a capture holds.
type Profile struct {
	Name string
	// Sessions are the mail connections, Rate how many begin in a second.
	Sessions int
	Rate     float64
	// Clients are the addresses that they come from, one in five IPv6.
	Clients int
	// MinMessages and MaxMessages bound the messages that a session fetches.
	MinMessages, MaxMessages int
	// Scale and Alpha are those of a Pareto distribution of message sizes in
	// bytes, Limit cuts it.
	Scale, Alpha float64
	Limit        int
	// Background is the share of packets that belong to another port.
	Background float64
	// Loss and Reorder are the shares of segments that are sent twice or late,
	// and of those that change places.
	Loss, Reorder float64
	Seed          uint64
}

// Truth is what a capture holds.
type Truth struct {
	// Logins counts the successful logins of each client.
	Logins map[netip.Addr]int
	// Succeeded are all of them, Failed the refused ones, Encrypted the
	// connections that went on in TLS.
	Succeeded, Failed, Encrypted int
	Packets, MailPackets, Bytes  int64
}

// Logins are many short sessions.
func Logins(sessions int) Profile {
	return Profile{
		Name: "logins", Sessions: sessions, Rate: 400, Clients: max(sessions*3/10, 100), MaxMessages: 1,
		Scale: 250, Alpha: 1.5, Limit: 2000, Loss: 0.004, Reorder: 0.003, Seed: 21,
	}
}

// Downloads are few sessions with large messages.
func Downloads(sessions int) Profile {
	return Profile{
		Name: "downloads", Sessions: sessions, Rate: 25, Clients: max(sessions*3/5, 100), MinMessages: 3, MaxMessages: 12,
		Scale: 9500, Alpha: 1.1, Limit: 7_000_000, Loss: 0.004, Reorder: 0.003, Seed: 22,
	}
}

// Mixed has four packets of other traffic beside each one of mail.
func Mixed(sessions int) Profile {
	return Profile{
		Name: "mixed", Sessions: sessions, Rate: 40, Clients: max(sessions/3, 100), MaxMessages: 3,
		Scale: 1500, Alpha: 1.2, Limit: 1_000_000, Background: 0.8, Loss: 0.004, Reorder: 0.003, Seed: 23,
	}
}

// size draws the size of a message in bytes.
func (p *Profile) size(rng *rand.Rand) int {
	return int(min(p.Scale/math.Pow(1-rng.Float64(), 1/p.Alpha), float64(p.Limit)))
}
