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

func TestReset(t *testing.T) {
	linetest.Resets(t, New, func(d *Dialogue) []command {
		d.answers = line.Answers{}
		return d.window[:cap(d.window)]
	}, "* OK ready\r\n", []string{
		"", "a", "a1 LOGIN alice secret\r\n", "a1 LOGIN {5}\r\n", "a1 LOGIN {5+}\r\nali", "a1 AUTHENTICATE PLAIN\r\n",
		"a1 AUTHENTICATE PLAIN AGEAYg==\r\n", "a1 NOOP\r\na2 NOOP\r\na3 NOOP\r\n", "\x16\x03",
	}, []string{"", "+", "+ \r\n", "a1 OK\r\n", "a1 NO\r\n", "* BAD\r\n"})
}
