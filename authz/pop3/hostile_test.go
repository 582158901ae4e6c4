package pop3

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"relaygate/authz/line/linetest"
)

// TestHostileDialogues plays random clients against models of real servers and
// against mixtures of their habits.
func TestHostileDialogues(t *testing.T) {
	linetest.Hostile(t, func(r *rand.Rand) linetest.Server {
		m := models[r.IntN(len(models))]
		if r.IntN(2) == 0 {
			m = randomModel(r)
		}
		return &m
	}, hostileClient, attack, New)
}

func TestHonestDialogues(t *testing.T) {
	linetest.Honest(t, func(r *rand.Rand) (linetest.Server, []linetest.Segment) {
		m := models[r.IntN(len(models))]
		return &m, honestClient(r, &m)
	}, New)
}

var pick, plain = linetest.Pick, linetest.Plain

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
	return linetest.Pieces(r, b, 2, 100)
}

func hostileClient(r *rand.Rand) []linetest.Segment {
	line := hostileLine
	if r.IntN(2) == 0 {
		line = pipelineLine
	}
	return linetest.Anything(r, line)
}

// pipelineLine is a line that may stand in a pipeline.
func pipelineLine(r *rand.Rand, password string) string {
	words := []string{
		"USER alice", "USER alice", "USER bob", "PASS " + password, "PASS " + password,
		"PASS " + password, "NOOP", "CAPA", "STAT", "RSET", "QUIT", "", "AUTH", "XCLIENT ADDR=192.0.2.1",
		"APOP alice 00000000000000000000000000000000", "LIST", "LIST 1", "UTF8", "LANG",
		"AUTH PLAIN " + plain("alice", password), "AUTH NTLM", "AUTH NTLM TlRMTVNTUAAB",
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
