package imap

import (
	"testing"

	"relaygate/authz/line"
	"relaygate/authz/line/linetest"
)

func start() linetest.Dialogue { return New() }

func TestScripts(t *testing.T) {
	linetest.Scripts(t, New, "honest", "pipelines", "sasl", "hostile", "cut")
}

func TestTakesLiterals(t *testing.T) {
	for text, want := range map[string]bool{
		"CAPABILITY IMAP4rev1 LITERAL+":             true,
		"CAPABILITY literal- IDLE":                  true,
		"CAPABILITY IMAP4rev1 imap4rev2":            true,
		"OK [CAPABILITY SASL-IR X2 LITERAL+] ready": true,
		"OK [CAPABILITY IMAP4rev2] ready":           true,
		"":                                          false,
		"CAPABILITY ":                               false,
		"CAPABILITY IMAP4rev1":                      false,
		"CAPABILITY LITERAL":                        false,
		"CAPABILITY XLITERAL+":                      false,
		"CAPABILITY LITERAL+X":                      false,
		"CAPABILITY X+LITERAL+":                     false,
		"CAPABILITY +LITERAL+":                      false,
		"CAPABILITY LITERAL+] LITERAL+]":            false,
		"CAPABILITY\tLITERAL+":                      false,
		"capability LITERAL+":                       false,
		"OK [CAPABILITY IMAP4rev1] LITERAL+":        false,
		"OK [CAPABILITY LITERAL+":                   false,
		"OK [ALERT] [CAPABILITY LITERAL+]":          false,
		"OK LITERAL+":                               false,
		"NO [CAPABILITY LITERAL+] LITERAL+":         false,
	} {
		if got := takesLiterals([]byte(text)); got != want {
			t.Errorf("takesLiterals(%q) = %v, want %v", text, got, want)
		}
	}
}

func TestReset(t *testing.T) {
	linetest.Resets(t, New, func(d *Dialogue) []command {
		d.answers = line.Answers{}
		return d.window[:cap(d.window)]
	}, "* OK ready\r\n", []string{
		"", "a", "a1 LOGIN alice secret\r\n", "a1 LOGIN {5}\r\n", "a1 LOGIN {5+}\r\nali", "a1 AUTHENTICATE PLAIN\r\n",
		"a1 AUTHENTICATE PLAIN AGEAYg==\r\n", "a1 NOOP\r\na2 NOOP\r\na3 NOOP\r\n", "\x16\x03",
	}, []string{"", "+", "+ \r\n", "a1 OK\r\n", "a1 NO\r\n", "* BAD\r\n"})
}
