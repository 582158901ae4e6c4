// Package nft is the gate: an nftables table of its own (inet relaygate) whose
// sets hold the addresses that may relay and whose rules treat them so, in one of
// several modes; or sets of the administrator's, of which only elements are
// touched.
//
// The ruleset of each mode is declared as data (see declare). It is built in
// one transaction, checked by the handles that the kernel gave its objects, and
// built again when another program took it away. Elements carry a timeout of
// their own, so that they run out when nobody is left to remove them: no call
// here can make a permanent one.
//
// The caller's table of grants is the truth, and the sets are its projection:
// they are read once, at the start, and written from then on.
//
// Redirect, Gateway and the brake on connections at a time need connection
// tracking, which the kernel then does for all that it receives: its table
// (net.netfilter.nf_conntrack_max) must be large enough for a flood.
//
// A Gate uses one netlink socket and belongs to one goroutine. A Watch has a
// socket of its own and may run in another, and so has a Cutter, which ends the
// connections that the gate let in.
package nft
