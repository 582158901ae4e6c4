package flow

import (
	"net/netip"
	"slices"

	"relaygate/authz"
	"relaygate/capture"
)

// liveOpened begins a flow that the kernel announced. It alone can: a connection
// that was open before the tap started is never believed.
func (t *Table) liveOpened(ev *capture.Event) {
	conn := ev.Conn
	service, watched := t.serviceOf(conn.Server.Port())
	if !watched || conn.Cookie == 0 || !ev.Trusted {
		return
	}
	if id, ok := t.byCookie[conn.Cookie]; ok {
		t.close(id) // the kernel never reuses a cookie: its end was lost
	}
	conn.Service = service
	origin := authz.FromHost
	if ev.Inside {
		origin = authz.FromInside
	}
	share := t.limits.FlowsPerClient
	if t.proxied(&conn) {
		share = t.limits.Flows
	}
	id, f, ok := t.open(&tuple{conn: conn}, origin, share)
	if !ok {
		return
	}
	t.byCookie[conn.Cookie] = id
	f.guard = guard{proof: byHost}
	f.start(ev.ClientISN, ev.ServerISN)
}

// proxied reports whether a connection is that of a proxy, whose clients are others.
func (t *Table) proxied(conn *authz.Conn) bool {
	return slices.ContainsFunc(t.proxies, func(p netip.Prefix) bool { return p.Contains(conn.Client.Addr()) })
}

// start sets the first sequence numbers of the two streams.
func (f *flow) start(clientISN, serverISN uint32) {
	f.clientISN, f.clientNext = clientISN, clientISN
	f.serverISN, f.serverNext, f.serverEnd = serverISN, serverISN, serverISN
}

// live takes a segment of a connection that was announced. The tap tells who
// sent it, not the ports: behind a REDIRECT the two directions show different
// ones.
func (t *Table) live(seg *capture.Segment) {
	t.stats.Packets++
	id, ok := t.byCookie[seg.Cookie]
	if !ok {
		return // it was open before the start, is not trusted, or a bound was hit
	}
	f := t.slots.at(id)
	if f.phase != following {
		return
	}
	switch {
	case isSYNACK(seg) && seg.Sent != capture.SenderOutside && seg.Seq+1 != f.serverISN:
		t.taint(id, reasonReplaced) // without a socket, its end can be missed
	case seg.Sent == capture.SenderHost, seg.Sent == capture.SenderInside:
		t.fromServer(id, f, seg)
	case seg.Sent != capture.SenderOutside:
		t.taint(id, reasonNoDirection)
	case seg.Src == f.conn.Server:
		t.stats.Forged++
	default:
		if seg.Flags&capture.RST != 0 && f.conn.Netns == 0 { // a socket's end is told
			f.reset = f.reset || f.resets(seg.Seq)
		}
		t.fromClient(id, f, seg)
	}
}
