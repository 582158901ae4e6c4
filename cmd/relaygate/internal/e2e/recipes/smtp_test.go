//go:build e2e

package recipes

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
)

// outcome is what became of a mail.
type outcome string

const (
	accepted outcome = "accepted"
	denied   outcome = "denied" // the server talks, and does not take it
	shut     outcome = "shut"   // no connection
)

// send hands a mail to a server, and returns what the server said last.
func send(t *testing.T, h *lab.Host, to netip.AddrPort, recipient, subject string) (outcome, string) {
	t.Helper()
	conn, err := h.Dial(t.Context(), to)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return shut, ""
	}
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	c := textproto.NewConn(conn)
	_, said, err := c.ReadResponse(220)
	must(t, err)
	for _, step := range []struct {
		command string
		want    int
	}{
		{"EHLO client.example", 250},
		{"MAIL FROM:<somebody@sender.example>", 250},
		{"RCPT TO:<" + recipient + ">", 250},
		{"DATA", 354},
		{"From: somebody@sender.example\r\nTo: " + recipient + "\r\nSubject: " + subject + "\r\n\r\nHello.\r\n.", 250},
	} {
		must(t, c.PrintfLine("%s", step.command))
		code, text, err := c.ReadResponse(step.want)
		var other *textproto.Error
		if errors.As(err, &other) {
			return denied, fmt.Sprintf("%d %s, to %q", code, text, step.command)
		}
		must(t, err)
		said = text
	}
	return accepted, said
}

// sink is a server of somebody else's, to whom mail is relayed.
type sink struct {
	mu       sync.Mutex
	subjects []string
}

func listenSink(t *testing.T, ns *netns.Namespace) *sink {
	t.Helper()
	s := &sink{}
	l := bpftest.Listen(t, ns, "tcp", netip.AddrPortFrom(lab.Stranger4, 25).String())
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go s.take(conn)
		}
	}()
	return s
}

// take speaks as little SMTP as a mail needs (RFC 5321 §4.5.1).
func (s *sink) take(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	say := func(line string) { fmt.Fprintf(conn, "%s\r\n", line) }
	say("220 sink.example")
	for data := false; ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		switch verb := strings.ToUpper(line); {
		case data && line == ".":
			data = false
			say("250 taken")
		case data:
			if subject, ok := strings.CutPrefix(line, "Subject: "); ok {
				s.mu.Lock()
				s.subjects = append(s.subjects, subject)
				s.mu.Unlock()
			}
		case verb == "DATA":
			data = true
			say("354 go on")
		case verb == "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

// has is nil if a mail with this subject has arrived.
func (s *sink) has(subject string) func() error {
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !slices.Contains(s.subjects, subject) {
			return fmt.Errorf("no mail %q has arrived, but %q", subject, s.subjects)
		}
		return nil
	}
}
