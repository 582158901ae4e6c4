package main

import (
	"encoding/json"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
)

// jsonLines prints one object per line: what encoding/json makes of a
// control.Verdict, without its reflection and garbage.
type jsonLines struct {
	w    io.Writer
	line []byte
	// stamp is the time of the line before, but for its fraction.
	stamp  []byte
	second int64
}

func newJSONLines(w io.Writer) *jsonLines { return &jsonLines{w: w, second: -1 << 63} }

func (j *jsonLines) print(v *engine.Verdict) error {
	out := control.NewVerdict(v)
	j.line = append(j.object(j.line[:0], &out), '\n')
	_, err := j.w.Write(j.line)
	return err
}

func (j *jsonLines) object(b []byte, v *control.Verdict) []byte {
	b = append(b, '{')
	if v.Event != "" {
		b = append(append(append(b, `"event":"`...), v.Event...), `",`...)
	}
	b = j.time(append(b, `"time":`...), v.Time)
	b = appendAddr(append(b, `,"client":"`...), v.Client)
	b = strconv.AppendUint(append(b, `","client_port":`...), uint64(v.ClientPort), 10)
	b = appendAddr(append(b, `,"server":"`...), v.Server)
	b = strconv.AppendUint(append(b, `","server_port":`...), uint64(v.ServerPort), 10)
	b = append(append(b, `,"protocol":"`...), v.Protocol...)
	b = appendWire(append(b, `","mechanism":`...), v.Mechanism)
	b = appendWire(append(b, `,"user":`...), v.User)
	if v.AuthzID != "" {
		b = appendWire(append(b, `,"authzid":`...), v.AuthzID)
	}
	b = append(append(b, `,"result":"`...), v.Result...)
	b = strconv.AppendBool(append(b, `","tls":`...), v.TLS)
	if v.Origin != "" {
		b = append(append(append(b, `,"origin":"`...), v.Origin...), '"')
	}
	if v.Anonymous {
		b = append(b, `,"anonymous":true`...)
	}
	b = appendText(append(b, `,"reason":`...), v.Reason)
	return append(b, '}')
}

// time appends what control.Time prints. Many verdicts share a second.
func (j *jsonLines) time(b []byte, t control.Time) []byte {
	if t.IsZero() {
		return append(b, "null"...)
	}
	if second := t.Unix(); second != j.second || j.stamp == nil {
		j.second = second
		j.stamp = t.UTC().AppendFormat(j.stamp[:0], `"2006-01-02T15:04:05.`)
	}
	b = append(append(b, j.stamp...), `000000Z"`...)
	micros := uint(t.Nanosecond()) / uint(time.Microsecond)
	for i := len(b) - len(`0Z"`); micros > 0; i-- {
		b[i] += byte(micros % 10)
		micros /= 10
	}
	return b
}

// appendAddr appends an address. IPv4 is by far the most frequent.
func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return b // as its MarshalText does
	}
	return a.AppendTo(b)
}

// appendText appends words of the program's own as JSON.
func appendText(b []byte, s string) []byte {
	if ordinary(s) {
		return append(append(append(b, '"'), s...), '"')
	}
	text, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...) // no string is an error
	}
	return append(b, text...)
}

// appendWire appends text from the wire as JSON. What may not be shown as it is
// escapes control.Text.
func appendWire(b []byte, s control.Text) []byte {
	if s == "" || ordinary(string(s)) && leads(s[0]) && s[len(s)-1] != ' ' {
		return append(append(append(b, '"'), s...), '"')
	}
	text, err := s.MarshalJSON()
	if err != nil {
		return append(b, `""`...)
	}
	return append(b, text...)
}

// ordinary tells whether s is ASCII text that no notation escapes.
func ordinary(s string) bool {
	for i := range len(s) {
		if !isOrdinary[s[i]] {
			return false
		}
	}
	return true
}

var isOrdinary = func() (is [256]bool) {
	for c := ' '; c <= '~'; c++ {
		is[c] = !strings.ContainsRune(`"\<>&'`, c)
	}
	return is
}()

// leads tells whether an ASCII character may begin a text (authz.Quote).
func leads(c byte) bool {
	return c != '=' && c != '+' && c != '-' && c != '@' && c != ' '
}
