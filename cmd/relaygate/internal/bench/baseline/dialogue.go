package main

import (
	"bytes"
	"strconv"
	"strings"
)

// dialogue looks for logins in the lines of both sides, as one would write it
// in an afternoon.
type dialogue struct {
	pop3           bool
	verdict        func(success bool)
	client, server []byte
	greeted, done  bool

	waiting []string // POP3: commands without an answer
	list    bool     // POP3: inside of a multi-line answer
	data    bool     // POP3: the next line is a SASL message

	tags      map[string]string // IMAP: login commands without an answer
	literal   int               // IMAP: octets to be skipped
	continued bool              // IMAP: the line goes on
}

func (d *dialogue) fromClient(b []byte) {
	if d.done {
		return
	}
	d.client = append(d.client, b...)
	for !d.done {
		if d.literal > 0 {
			n := min(d.literal, len(d.client))
			d.client, d.literal = d.client[n:], d.literal-n
			if d.literal > 0 {
				return
			}
		}
		line, rest, ok := bytes.Cut(d.client, []byte("\n"))
		if !ok {
			return
		}
		d.client = rest
		d.command(strings.TrimRight(string(line), "\r"))
	}
}

func (d *dialogue) fromServer(b []byte) {
	if d.done {
		return
	}
	d.server = append(d.server, b...)
	for !d.done {
		line, rest, ok := bytes.Cut(d.server, []byte("\n"))
		if !ok {
			return
		}
		d.server = rest
		d.answer(strings.TrimRight(string(line), "\r"))
	}
}

func (d *dialogue) command(line string) {
	words := strings.Fields(line)
	if d.pop3 {
		switch {
		case d.data:
			d.data = false
			d.waiting = append(d.waiting, "AUTH")
		case len(words) == 2 && strings.EqualFold(words[0], "AUTH"):
			d.waiting = append(d.waiting, "AUTH+")
		case len(words) > 0:
			d.waiting = append(d.waiting, strings.ToUpper(words[0]))
		}
		return
	}
	size := -1
	if at := strings.LastIndexByte(line, '{'); at >= 0 && strings.HasSuffix(line, "}") {
		if n, err := strconv.Atoi(strings.TrimSuffix(line[at+1:len(line)-1], "+")); err == nil {
			size = n
		}
	}
	before := d.continued
	d.continued, d.literal = size >= 0, max(size, 0)
	if before || len(words) < 2 {
		return
	}
	switch verb := strings.ToUpper(words[1]); verb {
	case "LOGIN", "AUTHENTICATE", "STARTTLS":
		if d.tags == nil {
			d.tags = make(map[string]string)
		}
		d.tags[words[0]] = verb
	}
}

func (d *dialogue) answer(line string) {
	if !d.greeted {
		d.greeted = true
		return
	}
	if !d.pop3 {
		d.tagged(strings.Fields(line))
		return
	}
	if d.list {
		d.list = line != "."
		return
	}
	if len(d.waiting) == 0 {
		return
	}
	verb, good := d.waiting[0], strings.HasPrefix(line, "+OK")
	d.waiting = d.waiting[1:]
	switch verb {
	case "CAPA", "LIST", "UIDL", "RETR", "TOP":
		d.list = good
	case "STLS":
		d.done = good
	case "AUTH+":
		d.data = strings.HasPrefix(line, "+ ")
	case "PASS", "AUTH", "APOP":
		d.decide(good)
	}
}

func (d *dialogue) tagged(words []string) {
	if len(words) < 2 {
		return
	}
	verb, ok := d.tags[words[0]]
	if !ok {
		return
	}
	delete(d.tags, words[0])
	if good := strings.EqualFold(words[1], "OK"); verb == "STARTTLS" {
		d.done = good
	} else {
		d.decide(good)
	}
}

func (d *dialogue) decide(success bool) {
	d.done = success
	d.verdict(success)
}
