package imap

import (
	"testing"

	"relaygate/authz/line/linetest"
)

func start() linetest.Dialogue { return New() }

func TestScripts(t *testing.T) { runScripts(t, start) }

// TestScriptsAgain runs the scripts with one dialogue, which knows the last greeting
// and the last answers.
func TestScriptsAgain(t *testing.T) {
	d := New()
	runScripts(t, func() linetest.Dialogue {
		d.Reset()
		return d
	})
}

func runScripts(t *testing.T, start func() linetest.Dialogue) {
	for _, name := range []string{"honest", "pipelines", "sasl", "hostile", "cut"} {
		t.Run(name, func(t *testing.T) { linetest.Run(t, "testdata/"+name+".txt", start) })
	}
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
