// Package sockdiag asks the kernel's socket tables (sock_diag(7)) who listens
// on the watched ports and whether a connection exists, and /proc which
// processes hold a listener.
//
// The kernel tap already believes only listeners of trusted users in trusted
// namespaces. What it cannot see is that such a listener only forwards: a
// docker-proxy runs as root in the host's namespace, and a tenant's container
// speaks through it. So Tables.Check refuses listeners that a known forwarder
// holds, those of which it cannot say who holds them, and those that take what is for
// any host, as a transparent proxy's does: its client names the server.
//
// A connection can begin before that is known, as right after a mail server's restart. Then
// its listener is undecided, and asked for again until the login. The cookie names the very
// socket that accepted the connection, and no other ever gets it:
//
//   - Who has the mail server's place in between, as a socat that waits for it to be back,
//     has another cookie, as has each listener of a group that shares a port (SO_REUSEPORT).
//     One that is gone will never be known.
//   - A forwarder that is seen once with the listener is a no for good: it may have accepted
//     the connection, whoever has the listener by the login.
//   - Who inherits the listener, or is sent it (SCM_RIGHTS), holds it with its cookie: all of
//     its holders are looked at, and one forwarder is enough for a no. While it is on its way,
//     and while init has it for whoever is to be started, nobody is believed.
//   - Of a listener that a mail server holds too, a forwarder can let go before it was seen:
//     within the first search, and between two. Whoever arranges that is root.
package sockdiag
