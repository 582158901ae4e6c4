//go:build linux

package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"relaygate/bpf/netns"
)

const (
	user     = "alice"
	password = "correct-horse"
	smtpPort = 25
	pop3Port = 110
	imapPort = 143
)

// mailServer is a small POP3, IMAP and SMTP server that knows one user.
type mailServer struct {
	listeners []net.Listener
	serving   sync.WaitGroup
}

func startMailServer(ns *netns.Namespace) (*mailServer, error) {
	m := &mailServer{}
	for port, serve := range map[int]func(*bufio.ReadWriter){
		smtpPort: serveSMTP, pop3Port: servePOP3, imapPort: serveIMAP,
	} {
		err := ns.Do(func() error {
			// Plain TCP: a subflow of Multipath TCP (Go's default for
			// listeners) taints a connection.
			var lc net.ListenConfig
			lc.SetMultipathTCP(false)
			ln, err := lc.Listen(context.Background(), "tcp", fmt.Sprintf("[::]:%d", port))
			if err != nil {
				return err
			}
			m.listeners = append(m.listeners, ln)
			m.serving.Go(func() { accept(ln, serve) })
			return nil
		})
		if err != nil {
			return m, errors.Join(fmt.Errorf("listen on port %d: %w", port, err), m.Close())
		}
	}
	return m, nil
}

// Close stops listening and waits for the accept loops.
func (m *mailServer) Close() error {
	var errs []error
	for _, ln := range m.listeners {
		errs = append(errs, ln.Close())
	}
	m.serving.Wait()
	return errors.Join(errs...)
}

func accept(ln net.Listener, serve func(*bufio.ReadWriter)) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer conn.Close()
			if conn.SetDeadline(time.Now().Add(10*time.Second)) != nil {
				return
			}
			serve(bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)))
		}()
	}
}

// reply writes one line and sends it.
func reply(rw *bufio.ReadWriter, line string) bool {
	_, err := rw.WriteString(line + "\r\n")
	return err == nil && rw.Flush() == nil
}

func serveSMTP(rw *bufio.ReadWriter) { reply(rw, "220 mail.example ESMTP") }

// servePOP3 answers USER, PASS and QUIT (RFC 1939).
func servePOP3(rw *bufio.ReadWriter) {
	name := ""
	for ok := reply(rw, "+OK POP3 server ready"); ok; {
		line, err := rw.ReadString('\n')
		if err != nil {
			return
		}
		verb, arg, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		switch strings.ToUpper(verb) {
		case "USER":
			name = arg
			ok = reply(rw, "+OK send your password")
		case "PASS":
			if name == user && arg == password {
				ok = reply(rw, "+OK maildrop has no messages")
			} else {
				ok = reply(rw, "-ERR [AUTH] wrong user or password")
			}
		case "QUIT":
			reply(rw, "+OK bye")
			return
		default:
			ok = reply(rw, "-ERR unknown command")
		}
	}
}

// serveIMAP answers LOGIN and LOGOUT (RFC 9051).
func serveIMAP(rw *bufio.ReadWriter) {
	for ok := reply(rw, "* OK IMAP4rev1 server ready"); ok; {
		line, err := rw.ReadString('\n')
		if err != nil {
			return
		}
		words := append(strings.Fields(line), "", "", "", "")
		tag := words[0]
		switch strings.ToUpper(words[1]) {
		case "LOGIN":
			if words[2] == user && words[3] == password {
				ok = reply(rw, tag+" OK logged in")
			} else {
				ok = reply(rw, tag+" NO [AUTHENTICATIONFAILED] wrong user or password")
			}
		case "LOGOUT":
			reply(rw, "* BYE\r\n"+tag+" OK bye")
			return
		default:
			ok = reply(rw, tag+" BAD unknown command")
		}
	}
}

// script is a login as a client types it. The reply to the last command
// decides.
type script struct {
	server    netip.AddrPort
	commands  []string
	positive  string // what a positive last reply begins with
	protocol  string
	shownLast string // the last command as the demo may print it
}

func pop3Login(server netip.Addr, pass string) script {
	return script{
		server:   netip.AddrPortFrom(server, pop3Port),
		commands: []string{"USER " + user, "PASS " + pass},
		positive: "+OK", protocol: "POP3", shownLast: "PASS ******",
	}
}

func imapLogin(server netip.Addr, pass string) script {
	return script{
		server:   netip.AddrPortFrom(server, imapPort),
		commands: []string{fmt.Sprintf("a1 LOGIN %s %s", user, pass)},
		positive: "a1 OK", protocol: "IMAP", shownLast: "a1 LOGIN " + user + " ******",
	}
}

// login plays a script from the host and checks whether it ended as it should.
func (h *host) login(ctx context.Context, d *demo, s script, wantSuccess bool) error {
	conn, err := h.dial(ctx, s.server)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.server, err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	if _, err := r.ReadString('\n'); err != nil {
		return fmt.Errorf("read greeting of %s: %w", s.server, err)
	}
	answer := ""
	for _, command := range s.commands {
		if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
			return fmt.Errorf("send a command to %s: %w", s.server, err)
		}
		if answer, err = r.ReadString('\n'); err != nil {
			return fmt.Errorf("read an answer of %s: %w", s.server, err)
		}
	}
	d.say("%s, %s: %s → %s", h.name, s.protocol, s.shownLast, strings.TrimSpace(answer))
	if strings.HasPrefix(answer, s.positive) != wantSuccess {
		return fmt.Errorf("the mail server answered %q", strings.TrimSpace(answer))
	}
	return nil
}

// dialSMTPUntilOpen connects to port 25 until it is let in, and returns the
// server's greeting and how many tries it took.
func (h *host) dialSMTPUntilOpen(ctx context.Context, server netip.Addr, limit time.Duration) (greeting string, tries int, err error) {
	err = poll(ctx, limit, 500*time.Microsecond, func() error {
		tries++
		conn, err := h.dial(ctx, netip.AddrPortFrom(server, smtpPort))
		if err != nil {
			return fmt.Errorf("%s → [%s]:25 should be open: %w", h.name, server, err)
		}
		defer conn.Close()
		greeting, err = bufio.NewReader(conn).ReadString('\n')
		greeting = strings.TrimSpace(greeting)
		return err
	})
	return greeting, tries, err
}
