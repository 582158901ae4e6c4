package lab_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/lab"
)

// hostileNames act on whoever shows them as they are.
var hostileNames = []string{
	"a\nb", "x\n203.0.113.99", "a\r\n203.0.113.99: b", "a\tb", "\x1b[31mred", "\x07bell", "a\x7fb",
	"a\u0085b", "a\u009b31mb", "a\u2028203.0.113.99", "a\u2029b",
	"\u202eevil", "a\u2066b\u2069", "\u200fa", "a\u200bb", "\ufeffa", "a\u00adb", "\U000e0041tag",
	"<script>alert(1)</script>", `"><img src=x>`, "a&amp;b", "it's", `back\slash`, `a"b`,
	`=cmd|'/c calc'!A1`, "+cmd1", "-cmd2", "@cmd3", "\uff1dcmd4", ":cmd5", "\tcmd6", " =cmd7",
	"-alwaysrelay-", "a, b", "a: b", "203.0.113.99", "#a",
	"\xff\xfe", "a\x80b", "caf\xe9", "\xc0\xaf", "\xed\xa0\x80", "\xe2\x80",
	strings.Repeat("n", 255), strings.Repeat("\u202e", 85), strings.Repeat("n", 256),
	"\u0301mark", "e\ufe0f", "\u3164", "\u2800", "\u2026",
	"Jürgen", "用户", "\U0001f600",
}

// hostileAnswer is what the server says of each success.
const hostileAnswer = " <b>\x1b[2J\u202e=cmd,\xff'\"\x07\r\n"

// hostileLogins are successes of each name by several mechanisms, and of an
// ordinary user under that name.
func hostileLogins() (list []dialogue) {
	said := func(d authz.Dir, text string) authz.Chunk { return authz.Chunk{Dir: d, Bytes: []byte(text)} }
	b64 := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	for _, name := range hostileNames {
		pop := func(commands ...string) {
			d := dialogue{name: name, port: 110, chunks: []authz.Chunk{said(authz.FromServer, "+OK\r\n")}}
			for _, c := range commands {
				d.chunks = append(d.chunks, said(authz.FromClient, c+"\r\n"), said(authz.FromServer, "+OK"+hostileAnswer))
			}
			list = append(list, d)
		}
		imap := func(command string) {
			list = append(list, dialogue{name: name, port: 143, chunks: []authz.Chunk{
				said(authz.FromServer, "* OK\r\n"),
				said(authz.FromClient, command+"\r\n"), said(authz.FromServer, "a1 OK"+hostileAnswer),
			}})
		}
		pop("AUTH PLAIN " + b64("\x00"+name+"\x00secret"))
		pop("USER "+name, "PASS secret")
		imap("a1 AUTHENTICATE PLAIN " + b64(name+"\x00alice\x00secret"))
		imap(fmt.Sprintf("a1 LOGIN {%d+}\r\n%s secret", len(name), name))
	}
	return list
}

// TestHostileTextComesOutQuoted lets users with hostile names log in, and looks
// at every octet that people, pages and programs read.
func TestHostileTextComesOutQuoted(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	check := func(where string, output []byte) { t.Helper(); quoted(t, where, output) }
	why := "why " + lab.Client4.String()
	shown := make(map[string]bool)
	for i, d := range hostileLogins() {
		conn := s.play(t, s.Client4, netip.AddrPortFrom(lab.Server4, d.port), d.chunks)
		s.sync(t)
		for _, v := range s.watched(t, conn) {
			if strings.HasPrefix(v, "success") {
				shown[d.name] = true
			}
		}
		if i%4 == 3 { // once for each name: it tells the last sixteen events
			s.outputs(t, check, why)
		}
	}
	t.Logf("%d of %d names logged in", len(shown), len(hostileNames))
	if len(shown) < len(hostileNames)/2 {
		t.Errorf("only %d of %d names logged in", len(shown), len(hostileNames))
	}
	s.outputs(t, check, "list", "status", "why "+lab.Client6.String())
	s.outputs(t, func(where string, output []byte) {
		if where == "list --json" {
			exactNames(t, output, shown)
		} else if !bytes.Contains(output, []byte(`, a\x2c b, `)) {
			t.Errorf("list makes two users of %q:\n%s", "a, b", output)
		}
	}, "list")
	if page := s.metrics(t); bytes.ContainsAny(page, "\x1b\x07\u202e") {
		t.Errorf("metrics hold what acts on a terminal: %q", page)
	}
	settles(t, time.Minute, func() error { // the files are written some time after, and later where the disk is slow
		names, err := os.ReadFile(filepath.Join(s.dir, "relayhostsusers"))
		if err == nil && !bytes.Contains(names, []byte(hostileNames[len(hostileNames)-1])) {
			err = fmt.Errorf("relayhostsusers holds %q", names)
		}
		return err
	})
	s.files(t, false, func(where string, content []byte) {
		switch filepath.Base(where) {
		case "relayhosts":
			compare(t, where, content, regexp.MustCompile(`^192\.0\.2\.10\n$`))
		case "relayhostsusers":
			quoted(t, where, content)
			compare(t, where, content, regexp.MustCompile(`^192\.0\.2\.10: [^-\s"'<>&][^\s"'<>&]*(, [^-\s,"'<>&][^\s"'<>&]*)*\n$`))
		}
	})
	s.end(t, syscall.SIGTERM)
	check("watch", s.watch.Bytes())
	check("watch --json", s.watchJSON.Bytes())
	check("the log", s.stderr.Bytes())
}

func compare(t *testing.T, where string, content []byte, want *regexp.Regexp) {
	t.Helper()
	if !want.Match(content) {
		t.Errorf("%s holds %q, want %s", where, content, want)
	}
}

// exactNames checks that JSON escapes hostile names and does not change them.
func exactNames(t *testing.T, list []byte, shown map[string]bool) {
	t.Helper()
	var g struct{ Users []string }
	if err := json.Unmarshal(list, &g); err != nil || len(g.Users) == 0 {
		t.Fatalf("list --json is %q: %v", list, err)
	}
	for _, u := range g.Users {
		if !strings.ContainsRune(u, utf8.RuneError) && !shown[u] && u != "alice" {
			t.Errorf("list --json names %q, which nobody logged in as", u)
		}
	}
}

// TestHostileTextComesOutOfReplayQuoted crafts captures of the same logins.
func TestHostileTextComesOutOfReplayQuoted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hostile.pcap")
	list := hostileLogins()
	writeCapture(t, file, list)
	for _, out := range replays(t, file) {
		quoted(t, "replay", out)
		if got := verdictLines(out); got < len(list) {
			t.Errorf("replay tells %d verdicts, want at least %d", got, len(list))
		}
	}
}

func verdictLines(out []byte) int { return bytes.Count(out, []byte("192.0.2.7")) }

// formula finds what a spreadsheet would run: nothing of the hostile names may
// come out with its first character in front.
var formula = regexp.MustCompile("[=+@\uff1d-]cmd[1-6|]|-alwaysrelay-|it's")

// quoted fails if an output holds an octet that acts on its reader.
func quoted(t *testing.T, where string, output []byte) {
	t.Helper()
	around := func(at int) []byte { return output[max(0, at-60):min(len(output), at+60)] }
	for at, r := range string(output) {
		_, size := utf8.DecodeRune(output[at:])
		switch {
		case r == utf8.RuneError && size == 1:
			t.Errorf("%s is not UTF-8: %q", where, around(at))
		case r == '\n':
		case !unicode.IsPrint(r), r == '<', r == '>', r == '&',
			unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector), r == '\u2800':
			t.Errorf("%s holds %U: %q", where, r, around(at))
		default:
			continue
		}
		if r != '\n' {
			return // one is enough
		}
	}
	if at := formula.FindIndex(output); at != nil {
		t.Errorf("%s holds what a spreadsheet runs: %q", where, around(at[0]))
	}
}
