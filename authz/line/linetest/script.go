// Package linetest drives the dialogues of POP3 and IMAP in tests: with written
// scripts, and with model servers that random clients talk to.
//
// A script file holds cases. A case begins with "== name". Each line "C: text"
// or "S: text" is one chunk, with the escapes \r \n \t \\ and \xNN; a line
// "C*9 text" repeats the text nine times, and behind that of a line "S/9 text"
// nine octets were not captured. Lines "> result mechanism user" and
// "> tainted reason" are the verdicts that the chunk before them gives. Lines
// with # are comments. A case whose name ends in "(chunks matter)" is not run
// in other segmentations.
package linetest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"relaygate/authz"

	"github.com/google/go-cmp/cmp"
)

// Dialogue is what the packages pop3 and imap export.
type Dialogue interface {
	Feed(authz.Chunk) []authz.Login
	Done() bool
}

// Case is one case of a script.
type Case struct {
	Name   string
	Chunks []authz.Chunk
	// Want holds the verdicts as lines, those of chunk i at index i.
	Want [][]string
}

const chunksMatter = "(chunks matter)"

// Read reads a script file.
func Read(path string) ([]Case, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var cases []Case
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		if err := add(&cases, lines.Text()); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	return cases, lines.Err()
}

func add(cases *[]Case, text string) error {
	if name, ok := strings.CutPrefix(text, "== "); ok {
		*cases = append(*cases, Case{Name: name})
		return nil
	}
	if text == "" || text[0] == '#' {
		return nil
	}
	if len(*cases) == 0 {
		return fmt.Errorf("a line before the first case: %q", text)
	}
	c := &(*cases)[len(*cases)-1]
	if want, ok := strings.CutPrefix(text, "> "); ok {
		if len(c.Want) == 0 {
			return fmt.Errorf("a verdict before the first chunk")
		}
		last := len(c.Want) - 1
		c.Want[last] = append(c.Want[last], want)
		return nil
	}
	head, body, ok := strings.Cut(text, " ")
	dir, known := map[byte]authz.Dir{'C': authz.FromClient, 'S': authz.FromServer}[head[0]]
	if !ok || !known {
		return fmt.Errorf("neither chunk nor verdict: %q", text)
	}
	times, cut := 1, 0
	if count, ok := strings.CutPrefix(head[1:], "/"); ok {
		var err error
		if cut, err = strconv.Atoi(count); err != nil {
			return err
		}
	}
	if count, ok := strings.CutPrefix(head[1:], "*"); ok {
		var err error
		if times, err = strconv.Atoi(count); err != nil {
			return err
		}
	}
	b, err := unescape(body)
	if err != nil {
		return err
	}
	c.Chunks = append(c.Chunks, authz.Chunk{Dir: dir, Bytes: bytes.Repeat(b, times), Cut: cut})
	c.Want = append(c.Want, nil)
	return nil
}

// unescape undoes \r \n \t \\ and \xNN.
func unescape(s string) ([]byte, error) {
	s = strings.ReplaceAll(s, `"`, `\"`)
	u, err := strconv.Unquote(`"` + s + `"`)
	return []byte(u), err
}

// String is how a script writes a verdict.
func String(l authz.Login) string {
	switch l.Result {
	case authz.Tainted, authz.Encrypted:
		return l.Result.String() + " " + l.Reason
	}
	s := l.Result.String() + " " + l.Mechanism + " " + l.User
	if l.AuthzID != "" {
		s += " as " + l.AuthzID
	}
	if l.Anonymous {
		s += " (anonymous)"
	}
	return strings.TrimSpace(s)
}

// Run runs every case of a script file, as written and in other segmentations.
func Run(t *testing.T, path string, start func() Dialogue) {
	t.Helper()
	cases, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			d := start()
			for i, chunk := range c.Chunks {
				if diff := cmp.Diff(c.Want[i], feed(d, chunk)); diff != "" {
					t.Errorf("chunk %d (%s %q): verdicts (-want +got)\n%s", i, chunk.Dir, chunk.Bytes, diff)
				}
			}
			if strings.HasSuffix(c.Name, chunksMatter) {
				return
			}
			want := all(start(), c.Chunks)
			if diff := cmp.Diff(want, all(start(), drip(c.Chunks))); diff != "" {
				t.Errorf("octet by octet: verdicts (-whole +dripped)\n%s", diff)
			}
			if diff := cmp.Diff(want, all(start(), merge(c.Chunks))); diff != "" {
				t.Errorf("merged: verdicts (-whole +merged)\n%s", diff)
			}
		})
	}
}

// feed gives the dialogue a copy and overwrites it afterwards, as a tap does.
func feed(d Dialogue, c authz.Chunk) (verdicts []string) {
	c.Bytes = bytes.Clone(c.Bytes)
	for _, l := range d.Feed(c) {
		verdicts = append(verdicts, String(l))
	}
	for i := range c.Bytes {
		c.Bytes[i] = 'X'
	}
	return verdicts
}

func all(d Dialogue, chunks []authz.Chunk) (verdicts []string) {
	for _, c := range chunks {
		verdicts = append(verdicts, feed(d, c)...)
	}
	return verdicts
}

// drip cuts every chunk into single octets.
func drip(chunks []authz.Chunk) (out []authz.Chunk) {
	for _, c := range chunks {
		for i := range c.Bytes {
			out = append(out, authz.Chunk{Dir: c.Dir, Bytes: c.Bytes[i : i+1]})
		}
	}
	return out
}

// merge joins neighbouring chunks of one direction.
func merge(chunks []authz.Chunk) (out []authz.Chunk) {
	for _, c := range chunks {
		if n := len(out); n > 0 && out[n-1].Dir == c.Dir {
			out[n-1].Bytes = append(bytes.Clone(out[n-1].Bytes), c.Bytes...)
			continue
		}
		out = append(out, c)
	}
	return out
}
