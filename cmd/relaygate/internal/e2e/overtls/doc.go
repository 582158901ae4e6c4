// Package overtls holds no code but tests: relaygate, as a process with its
// live tap and its TLS probes, beside real mail servers and proxies.
// Every client comes from an address of its own with a user name of its own, so
// that the truth about a login is the pair of the two and what the server
// answered; `relaygate watch --json` must say exactly that.
//
// The tests need root, the servers, and the build tag e2e: `make e2e` sees to
// all of it.
package overtls
