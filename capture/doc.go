// Package capture turns packets into Events: TCP segments of watched ports with
// what is known about who sent them. Its sources are the kernel's ring buffer,
// AF_PACKET and capture files; they share one decoder. Order, acknowledgement
// and doubt are the business of capture/flow.
package capture
