package bpf_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// asleep starts to read until the reader sleeps for want of records. What it
// read comes with end.
func asleep(t *testing.T, tap *bpf.Tap) (end func() []string) {
	t.Helper()
	read := make(chan []string)
	tap.Reader().SetDeadline(time.Time{})
	go func() {
		var payloads []string
		var rec bpf.Record
		for {
			err := tap.Reader().Next(&rec)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				read <- payloads
				return
			}
			if err != nil {
				t.Error(err)
			}
			if rec.Kind == bpf.Packet {
				if p := see(rec).payload; p != "" {
					payloads = append(payloads, p)
				}
			}
		}
	}()
	sleeps(t, tap)
	return func() []string {
		tap.Reader().Wake()
		payloads := <-read
		for _, r := range rest(t, tap) { // what nobody was in a hurry for
			if r.payload != "" {
				payloads = append(payloads, r.payload)
			}
		}
		return payloads
	}
}

func sleeps(t *testing.T, tap *bpf.Tap) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !tap.Sleeps(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the reader does not sleep")
		}
	}
}

// TestWhatWakes has a client say something: it wakes the reader, and so does its
// answer, only if the answer could end a login.
func TestWhatWakes(t *testing.T) {
	long := strings.Repeat("x", 60)
	for _, test := range []struct {
		name   string
		client []string
		want   uint64
	}{
		{"nothing", nil, 0},
		{"user name", []string{"USER alice\r\n"}, 0},
		{"user name, small letters", []string{"user alice\r\n"}, 0},
		{"what can it do", []string{"CAPA\r\n"}, 0},
		{"both", []string{"CAPA\r\n", "USER alice\r\n"}, 0},
		{"a user name as long as can be looked at", []string{"USER " + long[:57] + "\r\n"}, 0},
		{"a longer one", []string{"USER " + long[:58] + "\r\n"}, 2},
		{"password", []string{"USER alice\r\n", "PASS secret\r\n"}, 2},
		{"APOP", []string{"APOP alice c4c9334bac560ecc979e58001b3e22fb\r\n"}, 2},
		{"pipeline", []string{"USER alice\r\nPASS secret\r\n"}, 2},
		{"pipeline with bare line feeds", []string{"USER alice\nPASS secret\n"}, 2},
		{"begin of a line, and more", []string{"USER al", "ice\r\nPASS secret\r\n"}, 2},
		{"IMAP", []string{"a1 LOGIN alice secret\r\n"}, 2},
		{"short", []string{"x\n"}, 2},
		{"once urgent, always urgent", []string{"AUTH PLAIN\r\n", "USER alice\r\n"}, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			tap.Linger()
			l := bpftest.Listen(t, ns, "tcp", addr)
			end := asleep(t, tap)
			client := bpftest.Dial(t, ns, addr)
			server := bpftest.Accept(t, l)
			bpftest.Send(t, server, client, "+OK ready\r\n")
			said := 1
			for _, line := range test.client {
				bpftest.Send(t, client, server, line)
				sleeps(t, tap)
				bpftest.Send(t, server, client, "+OK\r\n")
				said += 2
				sleeps(t, tap)
			}
			counters, err := tap.Counters()
			if err != nil || counters.Wakeups != test.want {
				t.Errorf("the reader was woken %d times, want %d; %v", counters.Wakeups, test.want, err)
			}
			if got := end(); len(got) != said {
				t.Errorf("it read %q, want %d payloads", got, said)
			}
		})
	}
}

// TestNobodyIsWokenTwice has many connections answered while the reader does
// not sleep.
func TestNobodyIsWokenTwice(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	client, server := bpftest.Connect(t, ns, addr)
	for range 100 {
		bpftest.Send(t, client, server, "a1 NOOP\r\n")
		bpftest.Send(t, server, client, "a1 OK\r\n")
	}
	if counters, err := tap.Counters(); err != nil || counters.Wakeups != 0 {
		t.Errorf("woken %d times although nobody slept; %v", counters.Wakeups, err)
	}
	if got := len(rest(t, tap)); got < 200 {
		t.Errorf("%d records, want the 200 that were sent at least", got)
	}
}
