// Package e2e holds no code but tests: relaygate, as a process with its live
// tap, beside a real Dovecot. Honest clients and hostile scripts talk to it
// over the lab's network, and what it tells watchers of each connection
// must be what Dovecot's log says.
//
// The tests need root, Dovecot, and the build tag e2e: `make e2e` sees to all
// of it.
package e2e
