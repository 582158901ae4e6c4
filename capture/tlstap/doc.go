// Package tlstap finds the mail servers of this host and the TLS libraries
// that they use, has the kernel tap watch those libraries, and judges which
// process may speak for which connection.
//
// A server is a process that holds a believed listener on a watched port
// (package sockdiag); its family is it and what descends from it. The tap sees
// the plaintext of every process that uses a watched library file, and a
// process can put anything into its own memory: also the public random of
// somebody else's connection, and an answer that was never given. So there are
// two locks. The kernel hands on only what processes of a known family do that are
// in the control group of its head, and Finder.Believe believes them only on
// connections whose listener that head holds.
//
// Libraries are identified by device and inode and opened through the mapping
// itself, so it does not matter where they lie: in a chroot, in a container,
// deleted by an upgrade. They are parsed as hostile input: what a server maps
// may have been written by its users.
package tlstap
