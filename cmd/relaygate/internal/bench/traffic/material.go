package traffic

import (
	"encoding/binary"
	"math/rand/v2"
)

// material is what messages and encrypted records are cut from.
type material struct{ lines, random []byte }

// traps are lines in messages that look like logins.
var traps = []string{
	"+OK Logged in.", "a1 OK LOGIN completed", "a2 OK [CAPABILITY IMAP4rev1] Logged in",
	"USER mallory", "PASS hunter2", "a2 LOGIN mallory hunter2", "-ERR [AUTH] Authentication failed.",
	"* OK ready", "+OK maildrop has 1 message",
}

const (
	materialLen = 8 << 20
	letters     = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)

func newMaterial(rng *rand.Rand) *material {
	m := &material{random: make([]byte, materialLen)}
	for i := 0; i < len(m.random); i += 8 {
		binary.LittleEndian.PutUint64(m.random[i:], rng.Uint64())
	}
	for len(m.lines) < materialLen {
		switch draw := rng.Float64(); {
		case draw < 0.001:
			m.lines = append(m.lines, traps[rng.IntN(len(traps))]...)
		case draw < 0.003:
			m.lines = append(m.lines, ".."...) // a stuffed dot (RFC 1939 §3)
		default:
			for range 20 + rng.IntN(57) {
				m.lines = append(m.lines, letters[rng.IntN(len(letters))])
			}
		}
		m.lines = append(m.lines, "\r\n"...)
	}
	return m
}

// body is a message of whole lines, of about n bytes.
func (m *material) body(rng *rand.Rand, n int) []byte {
	from := rng.IntN(len(m.lines)/2 - 200)
	for m.lines[from] != '\n' {
		from++
	}
	to := from + 1 + min(n, len(m.lines)/2-200)
	for m.lines[to-1] != '\n' {
		to++
	}
	return m.lines[from+1 : to]
}

func (m *material) noise(rng *rand.Rand, n int) []byte {
	n = min(n, len(m.random)/2)
	from := rng.IntN(len(m.random) / 2)
	return m.random[from : from+n : from+n]
}
