package pop3

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
		r := rand.New(rand.NewPCG(1, uint64(i)))
		m := pickModel(r)
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
		r := rand.New(rand.NewPCG(2, uint64(i)))
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

func pickModel(r *rand.Rand) model {
	if r.IntN(2) == 0 {
		return models[r.IntN(len(models))]
	}
	return randomModel(r)
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// honestClient logs in as alice, after up to two failures, in step or in one
// segment.
func honestClient(r *rand.Rand, m *model) []linetest.Segment {
	var b []string
	if r.IntN(3) == 0 {
		b = append(b, "CAPA\r\n")
	}
	failures := 0
	if !m.closeAtFailure {
		failures = r.IntN(3)
	}
	for i := range failures + 1 {
		password := "secret"
		if i < failures {
			password = "wrong"
		}
		switch {
		case m.auth && r.IntN(3) == 0:
			b = append(b, "AUTH PLAIN "+plain("alice", password)+"\r\n")
		case m.auth && r.IntN(3) == 0:
			b = append(b, "AUTH LOGIN\r\n", "YWxpY2U=\r\n", base64.StdEncoding.EncodeToString([]byte(password))+"\r\n")
		case r.IntN(3) == 0:
			b = append(b, "USER alice\r\nPASS "+password+"\r\n")
		default:
			b = append(b, "USER alice\r\n", "PASS "+password+"\r\n")
		}
	}
	b = append(b, "STAT\r\n", "QUIT\r\n")
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
	if r.IntN(2) == 0 {
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

// pipelineLine is a line that may stand in a pipeline.
func pipelineLine(r *rand.Rand, password string) string {
	words := []string{
		"USER alice", "USER alice", "USER bob", "PASS " + password, "PASS " + password,
		"PASS " + password, "NOOP", "CAPA", "STAT", "RSET", "QUIT", "", "AUTH", "XCLIENT ADDR=192.0.2.1",
		"APOP alice 00000000000000000000000000000000", "LIST", "LIST 1", "UTF8", "LANG",
		"AUTH PLAIN " + plain("alice", password),
	}
	return words[r.IntN(len(words))]
}

func hostileLine(r *rand.Rand, password string) string {
	user := []string{"alice", "bob", "+OK", ""}[r.IntN(4)]
	switch r.IntN(24) {
	case 0, 1, 2, 3, 4:
		return "USER " + user
	case 5, 6, 7, 8, 9:
		return "PASS " + password
	case 10:
		return "AUTH PLAIN " + plain(user, password)
	case 11:
		return "AUTH PLAIN"
	case 12:
		return plain(user+[]string{"", "", "\r\n+OK", "\n+OK x\r\n"}[r.IntN(4)], password)
	case 13:
		return "AUTH LOGIN"
	case 14:
		return fmt.Sprintf("%s %s", []string{"PASS", "NOOP", "AUTH PLAIN", "XYZZY"}[r.IntN(4)],
			strings.Repeat("A", []int{250, 507, 1019, 4000}[r.IntN(4)])+"NOOP")
	case 15:
		words := []string{" ", "*", "STLS", "XYZZY", "AUTH XFOO", "AAAA", " PASS wrong"}
		return words[r.IntN(len(words))]
	}
	return pipelineLine(r, password)
}

// dirty puts an octet that servers disagree on into a line.
func dirty(r *rand.Rand, s string, percent int) string {
	if r.IntN(100) >= percent {
		return s
	}
	at := r.IntN(len(s) + 1)
	odd := []string{"\x00", "\r", "\t", "\x85", "\x1b", "\xff", "\n", "\r\r", "\xc3\xa4", " "}
	return s[:at] + odd[r.IntN(len(odd))] + s[at:]
}

func lineEnd(r *rand.Rand, dirt int) string {
	if r.IntN(100) >= dirt+2 {
		return "\r\n"
	}
	return []string{"\n", "\n", "\r", "\r\r\n", "\x00\r\n", "\n\n"}[r.IntN(6)]
}
