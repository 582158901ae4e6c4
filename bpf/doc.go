// Package bpf is the kernel's half of the live tap: the programs (C in src,
// their object is committed), the loader with a probe for each kernel feature,
// and the reader of their two ring buffers.
//
// A sockops program on the root cgroup makes an entry for each connection that
// a believed listener accepts on a watched port, keyed by socket cookie, and
// removes it when the kernel closes the connection, or when user space says that it
// does not follow it (Forget). Programs on cgroup_skb ingress and egress copy the
// packets of these connections, from the IP header on, until user space says
// SetDone. Believed are listeners of a trusted
// network namespace whose socket belongs to a trusted user and is at the watched port
// itself; of all others nothing is copied. What egress shows was sent by that very socket: nobody
// else can forge it. What ingress shows has not yet passed TCP: only bytes that
// the server acknowledged are real. What a client in this kernel lent it, and can
// still change, is marked.
//
// What passes through TLS is seen in the libraries of the servers' own
// processes. Egress notes the random of each ServerHello that a followed
// connection's socket sends. A library's object holds the random of its
// handshake, so a probe on the functions that read and write finds in the object
// whose connection it is: no descriptor, thread or moment is compared, and what
// does not match belongs to nobody. As a random is public, the probes listen
// only to processes that descend from those of SetServers.
//
// A Wire sees connections without their sockets, on interfaces by tcx: those that
// a gateway forwards to mail servers behind it, or those of a host without a
// usable cgroup tree. A connection begins there with a whole handshake. On a
// gateway a segment is the server's if it comes in on a tapped interface where
// this host itself sends what is for that server: so say its routes, and nobody
// who borrows the address elsewhere can change that. On a host it is the server's if
// a socket of the interface's own network namespace sent it, which did not open the
// connection itself; whose listener made it only the socket tables show.
//
// The programs are attached by links that nothing pins: they are gone with the
// process.
package bpf
