package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"relaygate/authz"
	"relaygate/capture"
	"relaygate/capture/flow"
)

// summary counts over all files.
type summary struct {
	services map[uint16]authz.Service
	packets  uint64
	short    uint64 // frames without their addresses
	doubts   uint64
	flows    flow.Stats
	results  [authz.Encrypted + 1]uint64
	reasons  map[string]uint64
}

func newSummary(services map[uint16]authz.Service) *summary {
	return &summary{services: services, reasons: make(map[string]uint64)}
}

func (s *summary) verdict(v *authz.Verdict) {
	s.results[v.Result]++
	if v.Result == authz.Tainted {
		s.reasons[v.Reason]++
	}
}

// file adds what a file held.
func (s *summary) file(packets uint64, decoded capture.DecodeStats, flows flow.Stats) {
	s.packets += packets
	s.short += decoded.Short
	s.doubts += decoded.Doubts
	s.flows.Packets += flows.Packets
	s.flows.Opened += flows.Opened
	s.flows.Forged += flows.Forged
	s.flows.Backward += flows.Backward
	b := &s.flows.Bounds
	b.Flows += flows.Bounds.Flows
	b.FlowsPerClient += flows.Bounds.FlowsPerClient
	b.Handshakes += flows.Bounds.Handshakes
	b.Waiting += flows.Bounds.Waiting
}

func (s *summary) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s, %s: %s, %d refused, %d tainted, %d encrypted\n", authz.Count(s.packets, "packet"), authz.Count(s.flows.Opened, "flow"),
		authz.Count(s.results[authz.Success], "login"), s.results[authz.Failure], s.results[authz.Tainted], s.results[authz.Encrypted])
	for _, reason := range byCount(s.reasons) {
		fmt.Fprintf(w, "  %6d tainted: %s\n", s.reasons[reason], reason)
	}
	for _, l := range slices.Concat(s.ignored(), s.losses()) {
		fmt.Fprintf(w, "  %6d %s\n", l.n, l.what)
	}
	if why := s.nothing(); why != "" {
		fmt.Fprintf(w, "  %s\n", why)
	}
}

// warn tells what no verdict does, where verdicts are all that is printed.
func (s *summary) warn(w io.Writer) {
	for _, l := range s.losses() {
		fmt.Fprintf(w, "relaygate: %d %s\n", l.n, l.what)
	}
	if why := s.nothing(); why != "" {
		fmt.Fprintf(w, "relaygate: %s\n", why)
	}
}

// tally is a number of things that a person should know of.
type tally struct {
	n    uint64
	what string
}

// some leaves out those of which there were none.
func some(all ...tally) []tally {
	return slices.DeleteFunc(all, func(t tally) bool { return t.n == 0 })
}

// ignored is what may stand behind a verdict, or behind its absence.
func (s *summary) ignored() []tally {
	return some(
		tally{s.flows.Forged, "ignored: segments with a server's address, not seen where it sends (copies of another interface, or forged)"},
	)
}

// losses are what may have cost a login, and is said by no verdict.
func (s *summary) losses() []tally {
	b := &s.flows.Bounds
	disorder := s.flows.Backward
	if s.results[authz.Tainted] == 0 {
		disorder = 0 // most captures have some, and none the worse for it
	}
	return some(
		tally{disorder, "out of order: segments older than the one before them; reordercap(1) puts a file in order"},
		tally{s.doubts, "in doubt: packets with cut headers, or fragments that a kernel may read otherwise"},
		tally{s.short, "not read: frames cut too short to show their addresses; capture with a larger snap length"},
		tally{b.Flows, "not read: connections beyond those that are followed at one time"},
		tally{b.FlowsPerClient, "not read: connections beyond those of one client that are followed at one time"},
		tally{b.Handshakes, "forgotten: handshakes beyond those that are kept at one time; how their sessions began is then not known"},
		tally{b.Waiting, "out of order: segments before what they answer, beyond those that are kept until it comes"},
	)
}

// nothing says why there is no flow in files with packets, "" if there are some or
// losses say it.
func (s *summary) nothing() string {
	if s.packets == 0 || s.flows.Opened > 0 || len(s.losses()) > 0 {
		return ""
	}
	if s.flows.Packets > 0 {
		return authz.Count(s.flows.Packets, "segment") + " of watched ports, but no connection that is established or carries data"
	}
	var ports []string
	for _, p := range slices.Sorted(maps.Keys(s.services)) {
		ports = append(ports, strconv.Itoa(int(p)))
	}
	return "no TCP segment of a watched port (" + strings.Join(ports, ", ") + "): --pop3 and --imap name others; " +
		"what is in tunnels or behind MPLS labels is not read"
}
