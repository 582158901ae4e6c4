//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

// outcome is what the author of a dialogue expects of Dovecot.
type outcome uint8

const (
	unknown outcome = iota // hostile: only the log knows
	login
	refusal
)

// dialogue is what one client does on one connection.
type dialogue struct {
	name  string
	port  uint16
	want  outcome
	odd   bool // relaygate need not understand the refusal
	steps []step
}

// played is a dialogue that took place.
type played struct {
	dialogue
	key  key
	seen string // the transcript
	err  error
}

const (
	playLimit = 10 * time.Second // for a whole dialogue
	workers   = 24               // dialogues at a time
)

// playAll plays each dialogue over IPv4 and IPv6, several at a time.
func (w *world) playAll(dialogues []dialogue) []*played {
	type job struct {
		dialogue
		host *lab.Host
	}
	jobs := make(chan job)
	var (
		mu  sync.Mutex
		out []*played
		wg  sync.WaitGroup
	)
	for range workers {
		wg.Go(func() {
			for j := range jobs {
				p := w.playOne(j.dialogue, j.host)
				mu.Lock()
				out = append(out, p)
				mu.Unlock()
			}
		})
	}
	for _, d := range dialogues {
		jobs <- job{d, w.Client4}
		jobs <- job{d, w.Client6}
	}
	close(jobs)
	wg.Wait()
	slices.SortFunc(out, func(a, b *played) int { return a.key.client.Compare(b.key.client) })
	return out
}

// playOne plays a dialogue from the host's next address.
func (w *world) playOne(d dialogue, h *lab.Host) *played {
	p := &played{dialogue: d}
	c, k, err := w.dialNew(h, d.port)
	if err != nil {
		p.err = err
		return p
	}
	p.key = k
	p.err = errors.Join(c.play(d.steps), c.Close())
	p.seen = c.seen.String()
	return p
}

// dialNew connects from an address and port that no dialogue had before: the log
// tells connections apart by nothing else.
func (w *world) dialNew(h *lab.Host, port uint16) (*conn, key, error) {
	for {
		c, err := w.dial(h, port)
		if err != nil {
			return nil, key{}, err
		}
		k := key{"imap", c.LocalAddr().(*net.TCPAddr).AddrPort()}
		if port == lab.POP3Port {
			k.protocol = "pop3"
		}
		w.mu.Lock()
		used := w.used[k]
		w.used[k] = true
		w.mu.Unlock()
		if !used {
			return c, k, nil
		}
		if err := c.Close(); err != nil {
			return nil, key{}, err
		}
	}
}

// dial connects from the host's next address.
func (w *world) dial(h *lab.Host, port uint16) (*conn, error) {
	server, source := lab.Server4, lab.Client4
	if h == w.Client6 {
		server, source = lab.Server6, lab.Client6
	}
	for range w.turn() {
		source = source.Next()
	}
	d := net.Dialer{Timeout: playLimit, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))}
	d.SetMultipathTCP(false)
	var c net.Conn
	err := h.NS.Do(func() (err error) {
		c, err = d.Dial("tcp", netip.AddrPortFrom(server, port).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect from %s: %w", source, err)
	}
	if err := c.SetDeadline(time.Now().Add(playLimit)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &conn{TCPConn: c.(*net.TCPConn), r: bufio.NewReader(c)}, nil
}

// turn is the number of the next source address.
func (w *world) turn() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = (w.next + 1) % sources
	return w.next
}
