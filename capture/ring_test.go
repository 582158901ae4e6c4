package capture

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"relaygate/authz"
	"relaygate/bpf"
)

// fakeTap hands out records, over and over if they are to repeat.
type fakeTap struct {
	records []bpf.Record
	next    int
	repeat  bool
}

func (f *fakeTap) Next(rec *bpf.Record) error {
	if f.next == len(f.records) {
		if !f.repeat {
			return os.ErrDeadlineExceeded
		}
		f.next = 0
	}
	*rec = f.records[f.next]
	f.next++
	return nil
}

func (f *fakeTap) SetDeadline(time.Time) {}
func (f *fakeTap) Wake()                 {}
func (f *fakeTap) Crowded() bool         { return f.repeat || f.next < len(f.records) }

// ipv4 is a TCP packet from 192.0.2.7:50000 to 192.0.2.1:1431.
func ipv4(payload string) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[8], b[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(b[2:], uint16(40+len(payload)))
	copy(b[12:], []byte{192, 0, 2, 7, 192, 0, 2, 1})
	binary.BigEndian.PutUint16(b[20:], 50000)
	binary.BigEndian.PutUint16(b[22:], 1431)
	binary.BigEndian.PutUint32(b[24:], 1001)
	b[32], b[33] = 5<<4, byte(PSH|ACK)
	return append(b, payload...)
}

var (
	boot   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	client = netip.MustParseAddrPort("192.0.2.7:50000")
	server = netip.MustParseAddrPort("192.0.2.1:1431")
)

// bootClock says that the machine booted at boot.
func bootClock() (uint64, time.Time) { return 0, boot }

func TestRingEvents(t *testing.T) {
	second := uint64(time.Second)
	conn := authz.Conn{Client: client, Server: server, Cookie: 9, Netns: 77}
	cookie := authz.Conn{Cookie: 9}
	for _, test := range []struct {
		name string
		rec  bpf.Record
		want Event
	}{
		{
			"opened",
			bpf.Record{Kind: bpf.Opened, Cookie: 9, Time: second, Client: client, Server: server, ClientISN: 5, ServerISN: 6, Netns: 77},
			Event{Kind: Opened, Time: boot.Add(time.Second), Conn: conn, ClientISN: 5, ServerISN: 6, Trusted: true},
		},
		{
			"foreign owner",
			bpf.Record{Kind: bpf.Opened, Cookie: 9, Client: client, Server: server, Netns: 77, UID: 1000, Reason: bpf.ForeignOwner},
			Event{Kind: Opened, Time: boot, Conn: conn, Reason: "the listener belongs to a user who is not trusted (uid 1000)"},
		},
		{
			"foreign namespace",
			bpf.Record{Kind: bpf.Opened, Cookie: 9, Client: client, Server: server, Netns: 77, Reason: bpf.ForeignNetns},
			Event{Kind: Opened, Time: boot, Conn: conn, Reason: "the listener is in a network namespace that is not trusted"},
		},
		{"closed", bpf.Record{Kind: bpf.Closed, Cookie: 9}, Event{Kind: Closed, Time: boot, Conn: cookie}},
		{
			"lost",
			bpf.Record{Kind: bpf.Lost, Cookie: 9, Reason: bpf.RingFull},
			Event{Kind: Lost, Time: boot, Conn: cookie, Reason: "the tap's ring buffer was full"},
		},
		{"handshake", bpf.Record{Kind: bpf.Handshake, Cookie: 9}, Event{Kind: Handshake, Time: boot, Conn: cookie}},
		{
			"read through TLS",
			bpf.Record{Kind: bpf.Plain, Cookie: 9, Data: []byte("hello"), WireLen: 5, Early: true, TGID: 3, Owner: 2},
			Event{Kind: Plain, Time: boot, Conn: cookie, Plain: Plaintext{Dir: authz.FromClient, Bytes: []byte("hello"), Early: true, Process: 3, Owner: 2}},
		},
		{
			"written through TLS, not recorded whole",
			bpf.Record{Kind: bpf.Plain, Cookie: 9, Egress: true, Data: []byte("he"), WireLen: 5, TGID: 2, Owner: 2},
			Event{Kind: Plain, Time: boot, Conn: cookie, Plain: Plaintext{Dir: authz.FromServer, Bytes: []byte("he"), Missing: 3, Process: 2, Owner: 2}},
		},
		{
			"from outside",
			bpf.Record{Kind: bpf.Packet, Cookie: 9, Data: ipv4("hello"), WireLen: 45},
			Event{Time: boot, Segment: Segment{Src: client, Dst: server, Cookie: 9, Sent: SenderOutside, Seq: 1001, Flags: PSH | ACK, Payload: []byte("hello")}},
		},
		{
			"sent by this host, not recorded whole",
			bpf.Record{Kind: bpf.Packet, Cookie: 9, Egress: true, Data: ipv4("hello")[:42], WireLen: 45},
			Event{Time: boot, Segment: Segment{Src: client, Dst: server, Cookie: 9, Sent: SenderHost, Seq: 1001, Flags: PSH | ACK, Payload: []byte("he"), Missing: 3}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			ring := newRing(&fakeTap{records: []bpf.Record{test.rec}}, SenderHost, bootClock)
			var got Event
			must(t, ring.Next(&got))
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
			if err := ring.Next(&got); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after the last: %v, want os.ErrDeadlineExceeded", err)
			}
		})
	}
}

func TestWireRingMarksTheInside(t *testing.T) {
	for egress, want := range map[bool]Sender{true: SenderInside, false: SenderOutside} {
		ring := newRing(&fakeTap{records: []bpf.Record{
			{Kind: bpf.Packet, Cookie: 9, Egress: egress, Data: ipv4("hello"), WireLen: 45},
		}}, SenderInside, bootClock)
		var got Event
		if err := ring.Next(&got); err != nil || got.Segment.Sent != want {
			t.Errorf("sent by the server's side %v: sender is %d, want %d (%v)", egress, got.Segment.Sent, want, err)
		}
	}
}

func TestRingSkipsWhatSaysNothing(t *testing.T) {
	ring := newRing(&fakeTap{records: []bpf.Record{
		{Kind: bpf.Packet, Cookie: 1},
		{Kind: bpf.Packet, Cookie: 1, Data: []byte{0x45}, WireLen: 1},
		{Kind: 99},
		{Kind: bpf.Closed, Cookie: 2},
	}}, SenderHost, bootClock)
	for {
		var ev Event
		must(t, ring.Next(&ev))
		if ev.Kind == Doubt && ev.Segment.Cookie == 1 {
			continue
		}
		if ev.Kind != Closed || ev.Conn.Cookie != 2 {
			t.Errorf("event is %+v, want Closed of cookie 2", ev)
		}
		return
	}
}

func TestKtimeFollowsTheWallClock(t *testing.T) {
	var ktime uint64
	wall := boot
	clock := ktimeClock{sample: func() (uint64, time.Time) { return ktime, wall }}
	for _, test := range []struct {
		name         string
		ktime, asked time.Duration
		wall, want   time.Duration
	}{
		{"first", 100 * time.Second, 99 * time.Second, 0, -time.Second},
		{"within the sample's life", 0, 101 * time.Second, time.Hour, time.Second},
		{"the wall clock was set", 102 * time.Second, 102 * time.Second, time.Hour, time.Hour},
		{"older than the sample", 0, 100 * time.Second, 0, time.Hour - 2*time.Second},
	} {
		ktime, wall = uint64(test.ktime), boot.Add(test.wall)
		got := clock.wall(uint64(test.asked)).Sub(boot)
		if got != test.want {
			t.Errorf("%s: %v after boot, want %v", test.name, got, test.want)
		}
	}
}

func TestRingAllocatesNothing(t *testing.T) {
	ring := newRing(&fakeTap{repeat: true, records: []bpf.Record{
		{Kind: bpf.Opened, Cookie: 9, Client: client, Server: server},
		{Kind: bpf.Packet, Cookie: 9, Data: ipv4("hello"), WireLen: 45},
		{Kind: bpf.Plain, Cookie: 9, Data: []byte("hello"), WireLen: 5},
		{Kind: bpf.Closed, Cookie: 9},
	}}, SenderHost, bootClock)
	var ev Event
	n := testing.AllocsPerRun(1000, func() {
		must(t, ring.Next(&ev))
	})
	if n != 0 {
		t.Errorf("%v allocations per event, want 0", n)
	}
}
