package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"relaygate/bpf/netns"
)

// User and Password are an account of the built-in mail server; the other users
// have the same password.
const (
	User     = "alice"
	Password = "correct-horse"
)

// Users are all that the mail server knows.
var Users = []string{User, "bob", "carol", "dave"}

func knows(user, password string) bool { return slices.Contains(Users, user) && password == Password }

// MailServer is a small POP3, IMAP and SMTP server that knows some users.
type MailServer struct {
	listeners []net.Listener
	serving   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// StartMailServer listens on all addresses of a namespace.
func StartMailServer(ns *netns.Namespace) (*MailServer, error) {
	return startMailServer(ns, map[uint16]func(*bufio.ReadWriter){
		SMTPPort: serveSMTP(MXGreeting), POP3Port: servePOP3, IMAPPort: serveIMAP,
	})
}

// StartMailboxes is StartMailServer for a host with an SMTP server of its own.
func StartMailboxes(ns *netns.Namespace) (*MailServer, error) {
	return startMailServer(ns, map[uint16]func(*bufio.ReadWriter){POP3Port: servePOP3, IMAPPort: serveIMAP})
}

func startMailServer(ns *netns.Namespace, services map[uint16]func(*bufio.ReadWriter)) (*MailServer, error) {
	m := &MailServer{conns: make(map[net.Conn]bool)}
	for port, serve := range services {
		if err := ns.Do(func() error { return m.listen(port, serve) }); err != nil {
			return m, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

// ListenIMAP adds an IMAP listener in the current thread's namespace, with the
// current thread's user as its owner.
func (m *MailServer) ListenIMAP(port uint16) error { return m.listen(port, serveIMAP) }

func (m *MailServer) listen(port uint16, serve func(*bufio.ReadWriter)) error {
	// Plain TCP: a subflow of Multipath TCP (Go's default for listeners)
	// taints a connection.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		return fmt.Errorf("listen on port %d: %w", port, err)
	}
	m.listeners = append(m.listeners, ln)
	m.serving.Go(func() { m.accept(ln, serve) })
	return nil
}

// Close stops listening, ends all connections, and waits for the accept loops.
func (m *MailServer) Close() error {
	var errs []error
	for _, ln := range m.listeners {
		errs = append(errs, ln.Close())
	}
	m.serving.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for conn := range m.conns {
		_ = conn.Close() // its client may have gone
	}
	return errors.Join(errs...)
}

// remember keeps a connection for Close, or forgets it.
func (m *MailServer) remember(conn net.Conn, open bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if open {
		m.conns[conn] = true
	} else {
		delete(m.conns, conn)
	}
}

func (m *MailServer) accept(ln net.Listener, serve func(*bufio.ReadWriter)) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return // closed
		}
		m.remember(conn, true)
		go func() {
			defer m.remember(conn, false)
			defer conn.Close()
			if conn.SetDeadline(time.Now().Add(talkTimeout)) != nil {
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

// serveSMTP greets and takes no mail (RFC 5321 §4.3.1): what counts is who gets
// here, and for how long.
func serveSMTP(greeting string) func(*bufio.ReadWriter) {
	return func(rw *bufio.ReadWriter) {
		for ok := reply(rw, greeting); ok; {
			line, err := rw.ReadString('\n')
			switch {
			case err != nil:
				return
			case strings.EqualFold(strings.TrimSpace(line), "QUIT"):
				reply(rw, "221 bye")
				return
			}
			ok = reply(rw, "250 ok")
		}
	}
}

// Greetings of the two listeners that a redirected client tells apart by.
const (
	MXGreeting    = "220 mail.example ESMTP"
	RelayGreeting = "220 relay.example ESMTP"
)

// ListenRelay adds a listener for members, as mode redirect leads them to, in
// the current thread's namespace.
func (m *MailServer) ListenRelay(port uint16) error { return m.listen(port, serveSMTP(RelayGreeting)) }

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
			if knows(name, arg) {
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

// serveIMAP answers LOGIN, ID and LOGOUT (RFC 9051).
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
			if knows(words[2], words[3]) {
				ok = reply(rw, tag+" OK logged in")
			} else {
				ok = reply(rw, tag+" NO [AUTHENTICATIONFAILED] wrong user or password")
			}
		case "ID": // RFC 2971
			ok = reply(rw, "* ID NIL\r\n"+tag+" OK completed")
		case "LOGOUT":
			reply(rw, "* BYE\r\n"+tag+" OK bye")
			return
		default:
			ok = reply(rw, tag+" BAD unknown command")
		}
	}
}

// Script is a login as a client types it. The reply to the last command
// decides.
type Script struct {
	Server   netip.AddrPort
	Protocol string
	// Shown is the last command without the password.
	Shown    string
	commands []string
	positive string // what a positive last reply begins with
}

// POP3Login is USER and PASS (RFC 1939 §7).
func POP3Login(server netip.Addr, password string) Script {
	return Script{
		Server: netip.AddrPortFrom(server, POP3Port), Protocol: "POP3", Shown: "PASS ******",
		commands: []string{"USER " + User, "PASS " + password}, positive: "+OK",
	}
}

// IMAPLogin is the LOGIN command (RFC 9051 §6.2.3).
func IMAPLogin(server netip.Addr, password string) Script {
	return Script{
		Server: netip.AddrPortFrom(server, IMAPPort), Protocol: "IMAP", Shown: "a1 LOGIN " + User + " ******",
		commands: []string{fmt.Sprintf("a1 LOGIN %s %s", User, password)}, positive: "a1 OK",
	}
}

// As is the script of another user.
func (s Script) As(user string) Script {
	s.Shown = strings.ReplaceAll(s.Shown, User, user)
	s.commands = slices.Clone(s.commands)
	for i := range s.commands {
		s.commands[i] = strings.ReplaceAll(s.commands[i], User, user)
	}
	return s
}

// Login plays a script from the host, one command at a time, and returns the
// last answer and whether it was positive.
func (h *Host) Login(ctx context.Context, s Script) (answer string, ok bool, err error) {
	conn, answer, ok, err := h.Session(ctx, s)
	if conn != nil {
		conn.Close()
	}
	return answer, ok, err
}

// Session is Login that leaves the connection open; it is nil with an error.
func (h *Host) Session(ctx context.Context, s Script) (conn net.Conn, answer string, ok bool, err error) {
	if conn, err = h.Dial(ctx, s.Server); err != nil {
		return nil, "", false, fmt.Errorf("connect to %s: %w", s.Server, err)
	}
	if answer, err = s.play(conn); err != nil {
		conn.Close()
		return nil, "", false, err
	}
	return conn, strings.TrimSpace(answer), strings.HasPrefix(answer, s.positive), nil
}

func (s Script) play(conn net.Conn) (answer string, err error) {
	r := bufio.NewReader(conn)
	if _, err := r.ReadString('\n'); err != nil {
		return "", fmt.Errorf("read the greeting of %s: %w", s.Server, err)
	}
	for _, command := range s.commands {
		if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
			return "", fmt.Errorf("send a command to %s: %w", s.Server, err)
		}
		if answer, err = r.ReadString('\n'); err != nil {
			return "", fmt.Errorf("read an answer of %s: %w", s.Server, err)
		}
	}
	return answer, nil
}
