package pop3

import (
	"testing"

	"relaygate/authz/line/linetest"
)

func start() linetest.Dialogue { return New() }

func TestScripts(t *testing.T) {
	for _, name := range []string{"honest", "pipelines", "sasl", "hostile", "cut"} {
		t.Run(name, func(t *testing.T) { linetest.Run(t, "testdata/"+name+".txt", start) })
	}
}

func TestScriptsAfterTLS(t *testing.T) {
	linetest.Run(t, "testdata/tls.txt", func() linetest.Dialogue { return NewAfterTLS() })
}
