package pop3

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

func TestScriptsAfterTLS(t *testing.T) {
	linetest.Run(t, "testdata/tls.txt", func() linetest.Dialogue { return NewAfterTLS() })
}
