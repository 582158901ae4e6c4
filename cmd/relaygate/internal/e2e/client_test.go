//go:build e2e

package e2e

import (
	"bufio"
	"crypto/hmac"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// conn is the client's end of a dialogue.
type conn struct {
	*net.TCPConn
	r    *bufio.Reader
	last string // the last line that await found, without its end
	seen strings.Builder
}

// step is one move of a client.
type step func(*conn) error

// play makes all moves, as far as the server plays along.
func (c *conn) play(steps []step) error {
	for _, s := range steps {
		if err := s(c); err != nil {
			return err
		}
	}
	return nil
}

// send writes octets in one segment.
func send(s string) step {
	return func(c *conn) error {
		fmt.Fprintf(&c.seen, "C: %q\n", s)
		_, err := io.WriteString(c, s)
		return err
	}
}

// trickle writes octets one by one.
func trickle(s string) step {
	return func(c *conn) error {
		for i := range len(s) {
			if err := send(s[i : i+1])(c); err != nil {
				return err
			}
		}
		return nil
	}
}

// await reads up to a line that begins with prefix.
func await(prefix string) step {
	return func(c *conn) error {
		for {
			line, err := c.r.ReadString('\n')
			fmt.Fprintf(&c.seen, "S: %q\n", line)
			if err != nil {
				return fmt.Errorf("wait for %q: %w", prefix, err)
			}
			if strings.HasPrefix(line, prefix) {
				c.last = strings.TrimRight(line, "\r\n")
				return nil
			}
		}
	}
}

// quiet reads until the server has said nothing for a while.
func quiet(d time.Duration) step {
	return func(c *conn) error {
		defer c.SetReadDeadline(time.Now().Add(playLimit))
		for {
			if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
				return err
			}
			line, err := c.r.ReadString('\n')
			if line != "" {
				fmt.Fprintf(&c.seen, "S: %q\n", line)
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
}

// halfClose says that nothing more comes.
func halfClose(c *conn) error { return c.CloseWrite() }

// drain reads until the server closes.
func drain(c *conn) error {
	b, err := io.ReadAll(c.r)
	fmt.Fprintf(&c.seen, "S: %q\n", b)
	return err
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// plain is the message of PLAIN (RFC 4616 §2).
func plain(authzid, user, password string) string {
	return b64(authzid + "\x00" + user + "\x00" + password)
}

// challenge decodes the server's last continuation.
func (c *conn) challenge() (string, error) {
	text, ok := strings.CutPrefix(c.last, "+ ")
	if !ok {
		return "", fmt.Errorf("no challenge in %q", c.last)
	}
	b, err := base64.StdEncoding.DecodeString(text)
	return string(b), err
}

// answer sends a client's answer to the last challenge.
func answer(f func(challenge string) (string, error)) step {
	return func(c *conn) error {
		challenge, err := c.challenge()
		if err != nil {
			return err
		}
		s, err := f(challenge)
		if err != nil {
			return err
		}
		return send(b64(s) + "\r\n")(c)
	}
}

// cramMD5 answers a challenge (RFC 2195 §2).
func cramMD5(user, password string) step {
	return answer(func(challenge string) (string, error) {
		mac := hmac.New(md5.New, []byte(password))
		io.WriteString(mac, challenge)
		return user + " " + hex.EncodeToString(mac.Sum(nil)), nil
	})
}

// apop sends APOP with the digest of the greeting's time stamp (RFC 1939 §7).
func apop(user, password string) step {
	return func(c *conn) error {
		i := strings.IndexByte(c.last, '<')
		if i < 0 {
			return fmt.Errorf("no time stamp in %q", c.last)
		}
		sum := md5.Sum([]byte(c.last[i:] + password))
		return send(fmt.Sprintf("APOP %s %x\r\n", user, sum))(c)
	}
}

// scram are the client's moves of SCRAM-SHA-1 (RFC 5802 §3), from the server's
// empty challenge to the answer to the empty answer to the server's signature.
func scram(user, password string) []step {
	const clientNonce = "fyko+d2lbbFgONRv9qkxdawL"
	first := "n=" + user + ",r=" + clientNonce
	return []step{
		await("+"), send(b64("n,,"+first) + "\r\n"), await("+"),
		answer(func(challenge string) (string, error) { return scramFinal(first, challenge, password) }),
		await(""),
		func(c *conn) error {
			if strings.HasPrefix(c.last, "+ ") { // the server's signature
				return c.play([]step{send("\r\n"), await("")})
			}
			return nil
		},
	}
}

func scramFinal(first, challenge, password string) (string, error) {
	attrs := make(map[byte]string)
	for a := range strings.SplitSeq(challenge, ",") {
		if len(a) > 1 {
			attrs[a[0]] = a[2:]
		}
	}
	salt, err := base64.StdEncoding.DecodeString(attrs['s'])
	if err != nil {
		return "", err
	}
	rounds, err := strconv.Atoi(attrs['i'])
	if err != nil {
		return "", err
	}
	salted, err := pbkdf2.Key(sha1.New, password, salt, rounds, sha1.Size)
	if err != nil {
		return "", err
	}
	sum := func(key []byte, text string) []byte {
		mac := hmac.New(sha1.New, key)
		io.WriteString(mac, text)
		return mac.Sum(nil)
	}
	clientKey := sum(salted, "Client Key")
	stored := sha1.Sum(clientKey)
	final := "c=biws,r=" + attrs['r']
	proof := sum(stored[:], first+","+challenge+","+final)
	for i := range proof {
		proof[i] ^= clientKey[i]
	}
	return final + ",p=" + base64.StdEncoding.EncodeToString(proof), nil
}
