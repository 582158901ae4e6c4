// Package sasl reads the client's side of a SASL exchange (RFC 4422) far
// enough to say who logged in, and whether the exchange got so far that a
// positive answer can mean a login at all.
//
// It never keeps a message: each is decoded into a scratch buffer that is wiped
// before Message returns. What stays is the mechanism, the two identities, and
// how many messages there were.
//
// A message can do two kinds of harm. A malformed one makes a positive answer
// incredible, because no server that checks would give it (Doubt says so). A
// decoded text with a line break is worse: servers exist that repeat the
// decoded user name in their refusal, so that the client writes the server's
// next line. Message reports those at once, as a reason to believe nothing
// further.
package sasl
