package engine

import (
	"net/netip"

	"relaygate/capture/flow"
)

// holds are the sessions that are open after a login. The flow table bounds
// them.
type holds struct {
	clients map[flow.ID]netip.Addr
	counts  map[netip.Addr]int
}

func newHolds() holds {
	return holds{clients: make(map[flow.ID]netip.Addr), counts: make(map[netip.Addr]int)}
}

func (h *holds) open(id flow.ID, client netip.Addr) {
	h.close(id)
	h.clients[id] = client
	h.counts[client]++
}

func (h *holds) close(id flow.ID) {
	client, ok := h.clients[id]
	if !ok {
		return
	}
	delete(h.clients, id)
	if h.counts[client]--; h.counts[client] == 0 {
		delete(h.counts, client)
	}
}

// Sessions counts the open sessions that began with a login from a prefix.
func (r *Reader) Sessions(p netip.Prefix) int {
	if p.IsSingleIP() {
		return r.held.counts[p.Addr()]
	}
	n := 0
	for client, count := range r.held.counts {
		if p.Contains(client) {
			n += count
		}
	}
	return n
}
