//go:build e2e

package overtls

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// protocol is that of the port.
type protocol string

const (
	imap protocol = "imap"
	pop3 protocol = "pop3"
)

// service is one port of one server.
type service struct {
	server   string
	at       place
	port     uint16
	protocol protocol
	implicit bool // TLS from the first octet, else STARTTLS or STLS
}

// right is everybody's password.
const right = "correct-horse"

// playLimit bounds one dialogue.
const playLimit = 20 * time.Second

// attempt is what one client does, and then what came of it. Its address and
// user are nobody else's.
type attempt struct {
	service
	client   netip.Addr
	user     string
	password []string // tried in turn
	sasl     bool     // AUTHENTICATE or AUTH PLAIN instead of LOGIN or USER and PASS
	after    int      // commands behind the login
	injected string   // sent in one segment with STARTTLS or STLS
	config   *tls.Config

	ok           bool // the server took a password
	refused      int  // the server refused so many
	err          error
	begun, ended time.Time
	state        tls.ConnectionState
	seen         string // the transcript
}

// dial connects from any address of the clients' prefixes.
func (w *world) dial(from, to netip.Addr, port uint16) (conn *net.TCPConn, err error) {
	d := net.Dialer{
		Timeout: playLimit, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) {
				if from.Is6() {
					err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
				} else {
					err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
				}
			}), err)
		},
	}
	d.SetMultipathTCP(false)
	err = w.client.Do(func() error {
		c, err := d.Dial("tcp", netip.AddrPortFrom(to, port).String())
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect from %s: %w", from, err)
	}
	return conn, nil
}

// dialogue is the client's end of a connection.
type dialogue struct {
	net.Conn
	r    *bufio.Reader
	seen strings.Builder
}

func (d *dialogue) say(line string) error {
	fmt.Fprintf(&d.seen, "C: %s\n", line)
	_, err := io.WriteString(d.Conn, line+"\r\n")
	return err
}

// ask says a line and reads the answer to it.
func (d *dialogue) ask(line string, prefixes ...string) (int, error) {
	if err := d.say(line); err != nil {
		return 0, err
	}
	return d.answer(prefixes...)
}

// answer reads lines up to one that begins with one of the prefixes, and says
// which.
func (d *dialogue) answer(prefixes ...string) (int, error) {
	for {
		line, err := d.r.ReadString('\n')
		fmt.Fprintf(&d.seen, "S: %q\n", line)
		if err != nil {
			return 0, fmt.Errorf("wait for %q: %w", prefixes, err)
		}
		for i, p := range prefixes {
			if strings.HasPrefix(line, p) {
				return i, nil
			}
		}
	}
}

// play is the whole life of a client.
func (w *world) play(a *attempt) {
	a.begun = time.Now()
	defer func() { a.ended = time.Now() }()
	to := a.at.v4
	if a.client.Is6() {
		to = a.at.v6
	}
	tcp, err := w.dial(a.client, to, a.port)
	if err != nil {
		a.err = err
		return
	}
	defer tcp.Close()
	d := &dialogue{Conn: tcp, r: bufio.NewReader(tcp)}
	defer func() { a.seen = d.seen.String() }()
	if a.err = tcp.SetDeadline(time.Now().Add(playLimit)); a.err != nil {
		return
	}
	if a.err = d.secure(a); a.err != nil {
		return
	}
	if a.protocol == imap {
		a.err = d.imap(a)
	} else {
		a.err = d.pop3(a)
	}
	if a.refused > 0 && hungUp(a.err) {
		a.err = nil // as nginx does
	}
}

// hungUp tells whether the server ended the connection.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// secure goes over to TLS, by STARTTLS (RFC 9051 §6.2.1) or STLS (RFC 2595 §4)
// where the port begins in clear text.
func (d *dialogue) secure(a *attempt) error {
	greeting := "* OK"
	if a.protocol == pop3 {
		greeting = "+OK"
	}
	if !a.implicit {
		if _, err := d.answer(greeting); err != nil {
			return err
		}
		command, ok := "s1 STARTTLS", "s1 OK"
		if a.protocol == pop3 {
			command, ok = "STLS", "+OK"
		}
		if a.injected != "" {
			command += "\r\n" + strings.TrimSuffix(a.injected, "\r\n")
		}
		if _, err := d.ask(command, ok); err != nil {
			return err
		}
	}
	c := tls.Client(d.Conn, a.config)
	if err := c.Handshake(); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	a.state = c.ConnectionState()
	d.Conn, d.r = c, bufio.NewReader(c)
	if a.implicit {
		if _, err := d.answer(greeting); err != nil {
			return err
		}
	}
	return nil
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// imap tries the passwords until one is taken.
func (d *dialogue) imap(a *attempt) error {
	for i, password := range a.password {
		tag := fmt.Sprintf("a%d", i)
		last := tag + " LOGIN " + a.user + " " + password
		if a.sasl {
			if _, err := d.ask(tag+" AUTHENTICATE PLAIN", "+"); err != nil {
				return err
			}
			last = plain(a.user, password)
		}
		which, err := d.ask(last, tag+" OK", tag+" NO")
		if err != nil {
			return err
		}
		if which == 0 {
			a.ok = true
			break
		}
		a.refused++
	}
	for i := range a.after {
		tag := fmt.Sprintf("b%d ", i)
		if _, err := d.ask(tag+"NOOP", tag); err != nil {
			return err
		}
	}
	return d.bye("c1 LOGOUT", "c1 OK")
}

// pop3 is imap for POP3.
func (d *dialogue) pop3(a *attempt) error {
	for _, password := range a.password {
		first, goOn, last := "USER "+a.user, "+OK", "PASS "+password
		if a.sasl {
			first, goOn, last = "AUTH PLAIN", "+ ", plain(a.user, password)
		}
		if _, err := d.ask(first, goOn); err != nil {
			return err
		}
		which, err := d.ask(last, "+OK", "-ERR")
		if err != nil {
			return err
		}
		if which == 0 {
			a.ok = true
			break
		}
		a.refused++
	}
	for range a.after {
		if _, err := d.ask("CAPA", ".\r\n", "-ERR"); err != nil {
			return err
		}
	}
	return d.bye("QUIT", "+OK")
}

// bye ends the session, if the server has not done so after a refusal.
func (d *dialogue) bye(command, answer string) error {
	if d.say(command) != nil {
		return nil
	}
	if _, err := d.answer(answer); !hungUp(err) {
		return err
	}
	return nil
}
