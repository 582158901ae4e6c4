package pop3

import (
	"testing"

	"relaygate/authz/line"
	"relaygate/authz/line/linetest"
)

func start() linetest.Dialogue { return New() }

func TestScripts(t *testing.T) {
	linetest.Scripts(t, New, "honest", "pipelines", "sasl", "hostile", "cut")
}

func TestScriptsAfterTLS(t *testing.T) {
	linetest.Run(t, "testdata/tls.txt", func() linetest.Dialogue { return NewAfterTLS() })
}

func TestReset(t *testing.T) {
	linetest.Resets(t, New, func(d *Dialogue) []command {
		d.answers = line.Answers{}
		return d.waiting[:cap(d.waiting)]
	}, "+OK <1@x> ready\r\n", []string{
		"", "a", "USER alice\r\n", "USER alice\r\nPASS secret\r\n", "AUTH PLAIN\r\n", "AUTH PLAIN AGEAYg==\r\n", "CAPA\r\nNOOP\r\n", "\x16\x03",
	}, []string{"", "+", "+ \r\n", "+OK\r\n", "-ERR\r\n"})
}
