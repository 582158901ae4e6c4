package lab_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"relaygate/authz"
	"relaygate/authz/line/linetest"
)

// stem is what all canaries begin with. It is a legal atom, tag and SASL
// mechanism name.
const stem = "Kanarie-5pZ8w"

// canary is the password of dialogue i, 16 octets long.
func canary(i int) string { return fmt.Sprintf("%s%02dQ", stem, i%100) }

var encoded = regexp.MustCompile(`(?s)@64\[(.*?)\]`)

// spoken puts canary i into a chunk of a script.
func spoken(i int, text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte("@PW@"), []byte(canary(i)))
	return encoded.ReplaceAllFunc(text, func(m []byte) []byte {
		return []byte(base64.StdEncoding.EncodeToString(m[len("@64[") : len(m)-len("]")]))
	})
}

// dialogue is one connection: what both say, and the verdicts it should give.
type dialogue struct {
	name   string
	port   uint16
	chunks []authz.Chunk
	want   []string
}

func readDialogues(t *testing.T, path string) []dialogue {
	t.Helper()
	cases, err := linetest.Read(path)
	must(t, err)
	var list []dialogue
	for i, c := range cases {
		d := dialogue{name: c.Name, port: 110, want: slices.Concat(c.Want...)}
		if strings.HasPrefix(c.Name, "imap ") {
			d.port = 143
		}
		for _, chunk := range c.Chunks {
			d.chunks = append(d.chunks, authz.Chunk{Dir: chunk.Dir, Bytes: spoken(i, chunk.Bytes)})
		}
		list = append(list, d)
	}
	return list
}

// forms are the shapes in which a canary could come out, in lower case.
var forms = canaryForms()

func canaryForms() map[string]string {
	all := map[string]string{
		"plain":            stem,
		"hexadecimal":      hex.EncodeToString([]byte(stem)),
		"percent-encoded":  strings.ReplaceAll(stem, "-", "%2d"),
		"quoted-printable": strings.ReplaceAll(stem, "-", "=2d"),
		"HTML":             strings.ReplaceAll(stem, "-", "&#45;"),
		"reversed":         reversed(stem),
	}
	// The shapes of authz.Quote, JSON, URLs, and of byte arrays in Go's crash texts.
	for name, format := range map[string]string{
		"escaped bytes": `\x%02x`, "escaped runes": `\u%04x`, "all percent-encoded": "%%%02x",
		"array": "0x%x, ", "decimal array": "%d ", "spaced": "%02x ",
	} {
		var b strings.Builder
		for _, c := range []byte(stem) {
			fmt.Fprintf(&b, format, c)
		}
		all[name] = strings.TrimSpace(b.String())
	}
	// Words of memory, as registers and arguments are printed.
	for i := 0; i+8 <= len(stem); i++ {
		word := []byte(stem[i : i+8])
		slices.Reverse(word)
		all[fmt.Sprintf("word %d", i)] = hex.EncodeToString(word)
	}
	// In base64 a text looks different at each of three offsets.
	for offset := range 3 {
		enc := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", offset) + stem))
		all[fmt.Sprintf("base64 at offset %d", offset)] = enc[4 : len(enc)-2]
	}
	for name, form := range all {
		all[name] = strings.ToLower(form)
	}
	return all
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// free fails if an output holds a canary in any form and any case.
func free(t *testing.T, where string, output []byte) {
	t.Helper()
	lower := bytes.ToLower(output)
	for name, form := range forms {
		if at := bytes.Index(lower, []byte(form)); at >= 0 {
			t.Errorf("%s holds a canary (%s): …%q…", where, name, lower[max(0, at-120):min(len(lower), at+120)])
		}
	}
}

// The search itself finds what it should, else the tests prove nothing.
func TestCanaryIsFoundInEveryForm(t *testing.T) {
	pw := canary(7)
	for _, text := range []string{
		pw, strings.ToUpper(pw), strings.ToLower(pw), hex.EncodeToString([]byte(pw)),
		base64.StdEncoding.EncodeToString([]byte(pw)),
		base64.StdEncoding.EncodeToString([]byte("\x00alice\x00" + pw)),
		base64.StdEncoding.EncodeToString([]byte("\x00bob\x00" + pw)),
		base64.StdEncoding.EncodeToString([]byte("\x00robin\x00" + pw)),
		authz.Quote("<" + pw),
		fmt.Sprintf("%q", pw), fmt.Sprintf("% x", pw), fmt.Sprintf("%v", []byte(pw)), fmt.Sprintf("%#v", []byte(pw)),
	} {
		found := false
		for _, form := range forms {
			found = found || strings.Contains(strings.ToLower(text), form)
		}
		if !found {
			t.Errorf("%q is not found", text)
		}
	}
}
