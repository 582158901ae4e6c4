package bpf_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// TestOrderUnderLoad runs many short logins at once on all CPUs and expects of
// each its records whole and in the order in which they happened.
func TestOrderUnderLoad(t *testing.T) {
	const workers, each = 8, 150
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	l := bpftest.Listen(t, ns, "tcp", addr)

	var wg sync.WaitGroup
	failed := make(chan error, 2*workers)
	wg.Go(func() {
		for range workers * each {
			c, err := l.Accept()
			if err != nil {
				failed <- err
				return
			}
			wg.Go(func() { serve(c) })
		}
	})
	for w := range workers {
		wg.Go(func() {
			err := ns.Do(func() error {
				for i := range each {
					if err := dialogue(fmt.Sprintf("user-%d-%d", w, i)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				failed <- err
			}
		})
	}

	flows := make(map[uint64]*flowState)
	var rec bpf.Record
	tap.Reader().SetDeadline(time.Now().Add(20 * time.Second))
	for closed := 0; closed < workers*each; {
		if err := tap.Reader().Next(&rec); err != nil {
			t.Fatalf("%d of %d closed: %v", closed, workers*each, err)
		}
		f := flows[rec.Cookie]
		switch {
		case rec.Kind == bpf.Opened && f == nil:
			flows[rec.Cookie] = &flowState{}
		case rec.Kind == bpf.Packet && f != nil && !f.closed:
			f.add(see(rec).payload, rec.Egress)
		case rec.Kind == bpf.Closed && f != nil && !f.closed:
			f.closed = true
			closed++
		default:
			t.Fatalf("record %+v for %+v", rec, f)
		}
	}
	wg.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	seen := make(map[string]bool)
	for _, f := range flows {
		seen[f.text] = true
	}
	for w := range workers {
		for i := range each {
			want := transcript(fmt.Sprintf("user-%d-%d", w, i))
			if !seen[want] {
				t.Errorf("nobody said %q", want)
			}
		}
	}
	if counters, err := tap.Counters(); err != nil || counters.Opened != workers*each || counters.Closed != workers*each {
		t.Errorf("counters are %+v, %v", counters, err)
	}
}

type flowState struct {
	text   string
	closed bool
}

func (f *flowState) add(payload string, egress bool) {
	if payload == "" {
		return
	}
	dir := "C:"
	if egress {
		dir = "S:"
	}
	f.text += dir + payload
}

func transcript(user string) string {
	return "S:+OK ready\r\nC:USER " + user + "\r\nS:+OK " + user + "\r\n"
}

// dialogue is the client's part. The server closes first.
func dialogue(user string) (err error) {
	d := net.Dialer{Timeout: 20 * time.Second}
	d.SetMultipathTCP(false)
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if _, err := io.ReadFull(c, make([]byte, len("+OK ready\r\n"))); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "USER "+user+"\r\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}

// serve is the server's part; what goes wrong shows in what the tap saw.
func serve(c net.Conn) {
	defer c.Close()
	if _, err := io.WriteString(c, "+OK ready\r\n"); err != nil {
		return
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		return
	}
	_, _ = io.WriteString(c, "+OK "+string(b[len("USER "):n]))
}

// TestLostEndsTheRecording has a client talk without being answered.
func TestLostEndsTheRecording(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	client, server := bpftest.Connect(t, ns, addr)
	line := string(make([]byte, 1000))
	for range 9 {
		bpftest.Send(t, client, server, line)
	}
	bpftest.Send(t, server, client, "+OK logged in\r\n")
	bpftest.Close(t, client)
	bpftest.Close(t, server)
	got := collect(t, tap, kind(bpf.Closed))
	var lost int
	for i, r := range got {
		if r.Kind == bpf.Lost {
			lost++
			if r.Reason != bpf.Unanswered {
				t.Errorf("reason is %q, want %q", r.Reason, bpf.Unanswered)
			}
			if i != len(got)-2 {
				t.Errorf("after Lost come %+v, want only Closed", got[i+1:])
			}
		}
	}
	if lost != 1 {
		t.Errorf("%d Lost records, want 1", lost)
	}
}

// TestBigAnswer has the server send more than a record holds.
func TestBigAnswer(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	client, server := bpftest.Connect(t, ns, addr)
	bpftest.Send(t, server, client, string(make([]byte, 40000)))
	var whole, cut int
	for _, r := range rest(t, tap) {
		if r.Kind != bpf.Packet || !r.Egress {
			continue
		}
		if len(r.payload) > 16384 {
			t.Errorf("a record holds %d bytes", len(r.payload))
		}
		if r.WireLen > 16384 {
			cut++
		}
		whole += r.WireLen - 52
	}
	if whole < 40000 || cut == 0 {
		t.Errorf("records stand for %d bytes, %d of them cut; want 40000 and at least one cut", whole, cut)
	}
	if counters, err := tap.Counters(); err != nil || counters.Truncated != uint64(cut) {
		t.Errorf("counters are %+v, %v; want %d truncated", counters, err, cut)
	}
}
