package imap

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"relaygate/authz"
	"relaygate/authz/line/linetest"
)

// TestHostileDialogues plays random clients against models of real servers and
// against mixtures of their habits: a success must be one of the model's.
func TestHostileDialogues(t *testing.T) {
	n := linetest.Dialogues(20000)
	var believed, loggedIn, tainted int
	for i := range n {
		r := rand.New(rand.NewPCG(3, uint64(i)))
		m := models[r.IntN(len(models))]
		if r.IntN(2) == 0 {
			m = randomModel(r)
		}
		client := hostileClient(r)
		if r.IntN(2) == 0 {
			client = attack(r)
		}
		d := New()
		if r.IntN(2) == 0 {
			d.TrustPeer()
		}
		verdicts, err := linetest.Play(r, &m, client, d, linetest.Options{Merge: true})
		if err != nil {
			t.Fatalf("dialogue %d with %+v: %v", i, m, err)
		}
		for _, l := range verdicts {
			switch l.Result {
			case authz.Success:
				believed++
			case authz.Tainted:
				tainted++
			}
		}
		if m.User() != "" {
			loggedIn++
		}
	}
	t.Logf("%d dialogues: %d logins, %d of them believed, %d tainted", n, loggedIn, believed, tainted)
	if believed == 0 || tainted == n {
		t.Errorf("believed %d of %d, tainted %d: the clients prove nothing", believed, n, tainted)
	}
}

// TestHonestDialogues plays honest clients: most of their logins must be
// believed.
func TestHonestDialogues(t *testing.T) {
	n := linetest.Dialogues(5000)
	var believed, loggedIn int
	for i := range n {
		r := rand.New(rand.NewPCG(4, uint64(i)))
		m := models[r.IntN(len(models))]
		verdicts, err := linetest.Play(r, &m, honestClient(r, &m), New(), linetest.Options{Merge: true})
		if err != nil {
			t.Fatalf("dialogue %d with %+v: %v", i, m, err)
		}
		if m.User() == "" {
			continue
		}
		loggedIn++
		if len(verdicts) > 0 && verdicts[len(verdicts)-1].Result == authz.Success {
			believed++
		}
	}
	t.Logf("%d dialogues: %d logins, %d believed", n, loggedIn, believed)
	if loggedIn < n/2 || believed < loggedIn*95/100 {
		t.Errorf("believed %d of %d logins in %d dialogues, want 95 %%", believed, loggedIn, n)
	}
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// honestClient logs in as alice, after up to two failures, in step or, where the
// server bears it, in one segment with other commands.
func honestClient(r *rand.Rand, m *model) []linetest.Segment {
	var b []string
	if r.IntN(2) == 0 {
		b = append(b, "c CAPABILITY\r\n")
	}
	if r.IntN(3) == 0 {
		b = append(b, "i ID (\"name\" \"x{5}\")\r\n")
	}
	for i, failures := 0, r.IntN(3); i <= failures; i++ {
		password := "secret"
		if i < failures {
			password = "wrong"
		}
		tag := fmt.Sprintf("a%d", i)
		kind := r.IntN(7)
		for m.reads > 0 && 1 <= kind && kind <= 3 {
			kind = r.IntN(7)
		}
		switch kind {
		case 0:
			b = append(b, fmt.Sprintf("%s LOGIN {5}\r\n", tag), fmt.Sprintf("alice {%d}\r\n", len(password)), password+"\r\n")
		case 1:
			if m.plus && i == failures {
				b = append(b, fmt.Sprintf("%s LOGIN {5+}\r\nalice {%d+}\r\n%s\r\n", tag, len(password), password))
				break
			}
			fallthrough
		case 2:
			b = append(b, fmt.Sprintf("%s NOOP\r\n%[1]s LOGIN alice %s\r\n", tag, password))
		case 3:
			b = append(b, fmt.Sprintf("n%s NOOP\r\n%[1]s LOGIN \"alice\" \"%s\"\r\ns%[1]s SELECT INBOX\r\n", tag, password))
		case 4:
			if m.ir {
				b = append(b, fmt.Sprintf("%s AUTHENTICATE PLAIN %s\r\n", tag, plain("alice", password)))
				break
			}
			fallthrough
		case 5:
			b = append(b, tag+" AUTHENTICATE PLAIN\r\n", plain("alice", password)+"\r\n")
		default:
			b = append(b, fmt.Sprintf("%s LOGIN alice %s\r\n", tag, password))
		}
	}
	b = append(b, "z LOGOUT\r\n")
	var out []linetest.Segment
	for _, s := range b {
		for i, piece := range linetest.Cut(r, []byte(s), r.IntN(3), 0) {
			piece.Wait = i == 0
			out = append(out, piece)
		}
	}
	return out
}

// hostileClient sends anything. He knows the password of one account at most.
func hostileClient(r *rand.Rand) []linetest.Segment {
	dirt := []int{0, 0, 0, 2, 10, 40}[r.IntN(6)]
	wait := []int{0, 30, 70, 95, 100}[r.IntN(5)]
	line := hostileLine
	if r.IntN(3) == 0 {
		line = pipelineLine
	}
	knows := r.IntN(8) == 0
	var out []linetest.Segment
	var b strings.Builder
	for range 2 + r.IntN(10) {
		password := "wrong"
		if knows && r.IntN(3) == 0 {
			password = "secret"
		}
		b.WriteString(dirty(r, line(r, password), dirt))
		b.WriteString(lineEnd(r, dirt))
		if r.IntN(100) < max(wait, 30) {
			pieces := linetest.Cut(r, []byte(b.String()), r.IntN(3)/2, wait/4)
			pieces[0].Wait = r.IntN(100) < wait
			out = append(out, pieces...)
			b.Reset()
		}
	}
	return append(out, linetest.Cut(r, []byte(b.String()), 1, wait)...)
}

func pick(r *rand.Rand, words ...string) string { return words[r.IntN(len(words))] }

func randomTag(r *rand.Rand) string {
	if r.IntN(40) == 0 {
		return pick(r, "*", "+", "(a1)", "\"a1", "a\\1", "a]1", "OK", "", "{5+}", "a1 OK")
	}
	return pick(r, "a1", "a1", "a1", "b2", "c3")
}

// pipelineLine is a line that may stand in a pipeline.
func pipelineLine(r *rand.Rand, password string) string {
	return pick(r, "a1", "a1", "b2", "c3", "d4") + " " + pick(r,
		"NOOP", "NOOP", "CAPABILITY", "ID NIL", "ID (\"a\" \"b\")", "ID (\"x-originating-ip\" \"192.0.2.1\")", "LOGOUT", "SELECT INBOX", "ENABLE X",
		"LOGIN alice "+password, "LOGIN alice "+password, "LOGIN \"alice\" \""+password+"\"",
		"AUTHENTICATE PLAIN "+plain("alice", password))
}

func hostileLine(r *rand.Rand, password string) string {
	tag := randomTag(r)
	switch r.IntN(16) {
	case 0, 1, 2:
		return tag + " LOGIN alice " + password
	case 3:
		return fmt.Sprintf("%s %s %s", tag, pick(r, "LOGIN", "LOGIN", "ID", "NOOP", "XYZZY", "AUTHENTICATE"), hostileLiteral(r))
	case 4:
		return fmt.Sprintf("%s %s x %s", tag, pick(r, "LOGIN", "ID (\"a\"", "LOGIN \"a"), hostileLiteral(r))
	case 5:
		return tag + " AUTHENTICATE " + pick(r, "PLAIN", "LOGIN", "XFOO", "", "PLAIN =")
	case 6:
		return plain(pick(r, "alice", "alice", "x\r\na1 OK\r\n", "x\na1 OK done"), password)
	case 7:
		return pick(r, "*", "", " ", "AAAA", "alice", "alice {5+}", "alice "+hostileLiteral(r), password, "a1 NOOP", "a1 NOOP x")
	case 8:
		return tag + " " + pick(r, "STARTTLS", "XYZZY", "IDLE", "LOGIN", "LOGIN a", "LOGIN a b c", "", "UNAUTHENTICATE")
	case 9:
		return fmt.Sprintf("%s %s %s%s", tag, pick(r, "LOGIN alice", "NOOP", "XYZZY", "AUTHENTICATE PLAIN"),
			strings.Repeat("A", pickInt(r, 980, 985, 990, 1010, 4080)), pick(r, "a1 NOOP", " a1 NOOP", "\"a1 NOOP"))
	}
	return pipelineLine(r, password)
}

func pickInt(r *rand.Rand, n ...int) int { return n[r.IntN(len(n))] }

func hostileLiteral(r *rand.Rand) string {
	n := pickInt(r, 0, 1, 5, 7, 9, 23, 30, 5000)
	return fmt.Sprintf(pick(r, "{%d}", "{%d}", "{%d+}", "{%d+}", "{+%d}", "~{%d}", "{0%d}", "{%d-}", "\"{%d}", "\"{%d}\""), n)
}

// dirty puts an octet that servers disagree on into a line.
func dirty(r *rand.Rand, s string, percent int) string {
	if r.IntN(100) >= percent {
		return s
	}
	at := r.IntN(len(s) + 1)
	return s[:at] + pick(r, "\x00", "\r", "\t", "\x85", "\x1b", "\xff", "\n", "\r\r", "\xc3\xa4", " ", "\"", "\\", "{", "}") + s[at:]
}

func lineEnd(r *rand.Rand, dirt int) string {
	if r.IntN(100) >= dirt+2 {
		return "\r\n"
	}
	return pick(r, "\n", "\n", "\r", "\r\r\n", "\x00\r\n", "\n\n")
}
