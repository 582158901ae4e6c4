// Package authz decides who may relay: it owns the value types that every
// stage shares (Conn, Chunk, Login, Verdict), the policy about addresses, and
// the evidence that explains each decision in words.
//
// Its sub-packages hold the dialogues (pop3 and imap, and what both need: line, sasl
// and proxy), the table of grants (grant) and the compatibility files (relayhosts).
// None of them does I/O on a network, judges by a clock of its own, or knows where the
// bytes came from.
package authz
