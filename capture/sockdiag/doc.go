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
package sockdiag
