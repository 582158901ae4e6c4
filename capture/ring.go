package capture

import (
	"fmt"
	"time"

	"relaygate/authz"
	"relaygate/bpf"
)

// Ring makes Events of the live tap's records. They name connections by cookie: a
// connection's Opened comes before its segments, its Closed after them. Behind
// a REDIRECT rule the ports of its segments differ from those of Conn, so who
// joins them goes by Cookie and Sent.
//
// Only one goroutine may use a Ring, but for Wake.
type Ring struct {
	tap     records
	decoder *Decoder
	server  Sender // of what the server's side sent
	rec     bpf.Record
	clock   ktimeClock
}

// records is the part of *bpf.Reader that a Ring needs.
type records interface {
	Next(*bpf.Record) error
	SetDeadline(time.Time)
	Wake()
	Crowded() bool
}

// NewRing reads the tap's records. The tap stays the caller's to close.
func NewRing(tap *bpf.Tap) *Ring { return newRing(tap.Reader(), SenderHost, sampleKtime) }

// NewWireRing does the same for the tap on interfaces. On those inside a gateway
// the servers' segments came in.
func NewWireRing(tap *bpf.Wire, inside bool) *Ring {
	server := SenderHost
	if inside {
		server = SenderInside
	}
	return newRing(tap.Reader(), server, sampleKtime)
}

func newRing(tap records, server Sender, sample func() (ktime uint64, wall time.Time)) *Ring {
	// The kernel picked the sockets; a port in a packet may be another one.
	var all PortSet
	for i := range all.bits {
		all.bits[i] = ^uint64(0)
	}
	return &Ring{tap: tap, server: server, decoder: NewDecoder(&all), clock: ktimeClock{sample: sample}}
}

// SetDeadline bounds how long Next waits when there is nothing; the zero time
// removes the bound. It does not hold back records that are there.
func (r *Ring) SetDeadline(t time.Time) { r.tap.SetDeadline(t) }

// Wake makes the waiting Next, or the next one, return os.ErrDeadlineExceeded
// at once. Any goroutine may call it while the tap is open.
func (r *Ring) Wake() { r.tap.Wake() }

// Crowded says that several Events had better be handled together, and that
// there is another one already.
func (r *Ring) Crowded() bool { return r.tap.Crowded() }

// Next waits for an Event. It returns os.ErrDeadlineExceeded if there is none
// at the deadline, or after Wake.
func (r *Ring) Next(ev *Event) error {
	for {
		if r.decoder.more(ev) {
			r.mark(ev)
			return nil
		}
		if err := r.tap.Next(&r.rec); err != nil {
			return fmt.Errorf("read the tap: %w", err)
		}
		if r.event(ev) {
			return nil
		}
	}
}

// event makes an Event of the record, or returns false if it says nothing.
func (r *Ring) event(ev *Event) bool {
	t := r.clock.wall(r.rec.Time)
	if r.rec.Kind == bpf.Packet {
		if !r.decoder.ip(&packet{time: t}, r.rec.Data, r.rec.WireLen, ev) {
			return false
		}
		r.mark(ev)
		return true
	}
	*ev = Event{
		Time: t,
		Conn: authz.Conn{
			Client: r.rec.Client,
			Server: r.rec.Server,
			Cookie: r.rec.Cookie,
			Netns:  r.rec.Netns,
		},
	}
	switch r.rec.Kind {
	case bpf.Opened:
		ev.Kind = Opened
		ev.ClientISN, ev.ServerISN = r.rec.ClientISN, r.rec.ServerISN
		ev.Listener = r.rec.Listener
		ev.Inside = r.server == SenderInside
		ev.Trusted = r.rec.Reason == bpf.None
		ev.Reason = r.openedReason()
	case bpf.Closed:
		ev.Kind = Closed
	case bpf.Lost:
		ev.Kind = Lost
		ev.Reason = r.rec.Reason.String()
	case bpf.Handshake:
		ev.Kind = Handshake
	case bpf.Plain:
		ev.Kind = Plain
		ev.Plain = r.plaintext()
	default:
		return false
	}
	return true
}

// plaintext is what the record's call read or wrote. Its Event is not trusted:
// only who knows the server's listeners can say whether the process may speak
// for the connection.
func (r *Ring) plaintext() Plaintext {
	dir := authz.FromClient
	if r.rec.Egress {
		dir = authz.FromServer
	}
	return Plaintext{
		Dir:     dir,
		Bytes:   r.rec.Data,
		Missing: r.rec.WireLen - len(r.rec.Data),
		Early:   r.rec.Early,
		Process: r.rec.TGID,
		Owner:   r.rec.Owner,
	}
}

// openedReason names the owner where it is the owner who is not trusted.
func (r *Ring) openedReason() string {
	if r.rec.Reason == bpf.ForeignOwner {
		return fmt.Sprintf("%v (uid %d)", r.rec.Reason, r.rec.UID)
	}
	return r.rec.Reason.String()
}

// mark says of a decoded packet what only the tap knows.
func (r *Ring) mark(ev *Event) {
	ev.Segment.Cookie, ev.Segment.Lent = r.rec.Cookie, r.rec.Lent
	ev.Segment.Sent = SenderOutside
	if r.rec.Egress {
		ev.Segment.Sent = r.server
	}
}

// resample is how old the relation of the two clocks may get: the wall clock
// is set and slewed, and only CLOCK_MONOTONIC stops in suspend, in ns.
const resample = uint64(time.Second)

// ktimeClock turns the programs' bpf_ktime_get_ns, which is CLOCK_MONOTONIC
// (not CLOCK_BOOTTIME), into wall-clock time with a monotonic reading: how long ago
// something was no step of the wall clock disturbs.
type ktimeClock struct {
	sample func() (ktime uint64, wall time.Time)
	ktime  uint64
	at     time.Time
}

func (c *ktimeClock) wall(ktime uint64) time.Time {
	if c.at.IsZero() || ktime > c.ktime+resample {
		c.ktime, c.at = c.sample()
	}
	// Records are older than the sample, or less than resample younger.
	return c.at.Add(time.Duration(int64(ktime - c.ktime)))
}

// sampleKtime reads both clocks. Without CLOCK_MONOTONIC, which every Linux
// has, all times are those of the sample.
func sampleKtime() (uint64, time.Time) {
	ktime, _ := bpf.Monotonic()
	return ktime, time.Now()
}
