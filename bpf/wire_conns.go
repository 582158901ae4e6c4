package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
)

// tick is the unit of times in the programs of a Wire. They have no clock: the
// cheapest helper that tells time is a fifth of what a packet costs.
const tick = time.Second

// Tick tells the programs what time it is. It must be called every second or so,
// with times that have a monotonic reading: in between the silence of
// connections seems shorter, and doubts seem to last.
func (w *Wire) Tick(now time.Time) error {
	// From 1 on: a doubt at 0 never was.
	if err := w.objs.Ticks.Set(uint32(now.Sub(w.start)/tick) + 1); err != nil {
		return fmt.Errorf("tell the programs the time: %w", err)
	}
	return nil
}

// Doubt is for when clients' segments may have come in unseen, until now: no connection
// is followed whose handshake is under way. Those with a cookie below the one that it
// returns began before.
func (w *Wire) Doubt() (below uint64, err error) {
	var blinded uint32
	var numbered uint64
	var fence atomic.Uint32
	if err := w.objs.Blinded.Get(&blinded); err != nil {
		return 0, fmt.Errorf("put connections in doubt: %w", err)
	}
	if err := w.objs.Blinded.Set(blinded + 1); err != nil {
		return 0, fmt.Errorf("put connections in doubt: %w", err)
	}
	fence.Add(1) // no processor may read before it writes: the programs do it the other way round
	if err := w.objs.Numbered.Get(&numbered); err != nil {
		return 0, fmt.Errorf("read the number of connections: %w", err)
	}
	return wireCookie | numbered, nil
}

// wireCookie is WIRE_COOKIE of wires.h.
const wireCookie = 1 << 63

// never is more than any silence, in ticks.
const never = 1<<31 - 1

// words are an address as the programs know it: in 16 bytes, mapped if IPv4.
func words(a netip.Addr) (out [4]uint32) {
	b := a.As16()
	for i := range out {
		out[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return out
}

func addrOf(words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

// port turns a port into or from network byte order.
func port(p uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, p))
}

// SetDone ends the recording of a connection; its Closed still comes. It is no
// error if the connection is gone.
func (w *Wire) SetDone(client, server netip.AddrPort, cookie uint64) error {
	return w.verdict(client, server, wireVerdict{Cookie: cookie})
}

// Forget takes a connection for one that found no room: nothing more is told of it, its
// Closed neither, and another can have its place. It is no error if it is gone.
func (w *Wire) Forget(client, server netip.AddrPort, cookie uint64) error {
	return w.verdict(client, server, wireVerdict{Cookie: cookie, Forget: 1})
}

func (w *Wire) verdict(client, server netip.AddrPort, v wireVerdict) error {
	v.Tuple = wireTuple{
		Client: words(client.Addr()), ClientPort: port(client.Port()),
		Server: words(server.Addr()), ServerPort: port(server.Port()),
	}
	if _, err := w.objs.RelaygateDone.Run(&ebpf.RunOptions{Context: &v}); err != nil {
		return fmt.Errorf("end the recording of a connection: %w", err)
	}
	return nil
}

// Sweep closes the connections whose server was silent for so long, and those
// where one side has closed (by the server's word) and the server was silent for
// ending.
func (w *Wire) Sweep(idle, ending time.Duration) error {
	return w.sweep(wireSweep{Idle: uint32(idle / tick), Ending: uint32(ending / tick)})
}

func (w *Wire) sweep(by wireSweep) error {
	if _, err := w.objs.RelaygateSweep.Run(&ebpf.RunOptions{Context: &by}); err != nil {
		return fmt.Errorf("close connections that are silent: %w", err)
	}
	return nil
}

// WireSession is a connection that is open.
type WireSession struct {
	Client, Server netip.AddrPort
	Cookie         uint64
	// Silent is the time since the client was heard last: a segment that goes
	// on exactly where the server's acknowledgements stand, or that keeps alive.
	// It is exact to a second or so.
	Silent time.Duration
}

// Sessions lists the connections that are followed and that neither side has
// begun to close.
func (w *Wire) Sessions() ([]WireSession, error) {
	var ticks uint32
	if err := w.objs.Ticks.Get(&ticks); err != nil {
		return nil, fmt.Errorf("read the programs' time: %w", err)
	}
	var all []WireSession
	var cursor ebpf.MapBatchCursor
	keys, values := make([]wireTuple, 1024), make([]wireWire, 1024)
	for {
		n, err := w.objs.Wires.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			if s, ok := sessionOf(&keys[i], &values[i], uint16(ticks)); ok {
				all = append(all, s)
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the connections of the tap on interfaces: %w", err)
		}
	}
}

// The bits of wire.fins.
const (
	clientFIN = 1
	serverFIN = 2
)

func sessionOf(key *wireTuple, w *wireWire, now uint16) (WireSession, bool) {
	if w.Fins&serverFIN != 0 || w.Fins&clientFIN != 0 && int32(w.Acked-w.ClientFin) >= 0 {
		return WireSession{}, false
	}
	silent := int16(now - w.Heard) // below 0: heard since now was read
	return WireSession{
		Client: netip.AddrPortFrom(addrOf(key.Client), port(key.ClientPort)),
		Server: netip.AddrPortFrom(addrOf(key.Server), port(key.ServerPort)),
		Cookie: w.Cookie,
		Silent: time.Duration(max(silent, 0)) * tick,
	}, true
}
