package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const corpusDir = "../../testdata/corpus"

// corpusTruth is what the mail servers' own logs say about one capture.
type corpusTruth struct {
	File, Category, Server, Note string
	Attack                       bool
	Successes                    []corpusLogin
}

// corpusLogin is a login that a server logged. Port is 0 where its log names no
// client port, User empty where it names no user.
type corpusLogin struct {
	Client string
	Port   uint16
	Server string
	User   string
}

func readTruth(t *testing.T) []corpusTruth {
	t.Helper()
	f, err := os.Open(filepath.Join(corpusDir, "truth.jsonl"))
	must(t, err)
	defer f.Close()
	var all []corpusTruth
	for d := json.NewDecoder(f); ; {
		var c corpusTruth
		err := d.Decode(&c)
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all = append(all, c)
	}
}

// replayed is a line of replay --json.
type replayed struct {
	Client     netip.Addr
	ClientPort uint16 `json:"client_port"`
	ServerPort uint16 `json:"server_port"`
	User       string
	Result     string
	Reason     string
}

func replay(t *testing.T, file string) []replayed {
	t.Helper()
	var out, errs bytes.Buffer
	e := &env{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Now: time.Now, Getenv: func(string) string { return "" },
	}
	if err := run(t.Context(), e, []string{"replay", "--json", file}); err != nil {
		t.Fatalf("replay %s: %v\n%s", file, err, errs.String())
	}
	var all []replayed
	for line := range strings.Lines(out.String()) {
		var r replayed
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v: %s", file, err, line)
		}
		all = append(all, r)
	}
	return all
}

// matches tells whether a reported success is one that the server logged.
func (l corpusLogin) matches(t *testing.T, r replayed) bool {
	t.Helper()
	server, err := netip.ParseAddrPort(l.Server)
	if err != nil {
		i := strings.LastIndexByte(l.Server, ':') // an IPv6 address without brackets
		server, err = netip.ParseAddrPort("[" + l.Server[:i] + "]" + l.Server[i:])
	}
	must(t, err)
	client, err := netip.ParseAddr(l.Client)
	must(t, err)
	return client.Unmap() == r.Client && (l.Port == 0 || l.Port == r.ClientPort) && server.Port() == r.ServerPort
}

// TestCorpus replays captures of real servers: no success that the server did
// not log, no attack with any effect, and every honest login but those that
// unprovable names.
func TestCorpus(t *testing.T) {
	for _, c := range readTruth(t) {
		name := c.Category + "/" + strings.TrimSuffix(c.File, ".gz")
		t.Run(name, func(t *testing.T) {
			want := c.Successes
			for _, r := range replay(t, filepath.Join(corpusDir, c.File)) {
				if r.Result != "success" {
					if r.Reason == "" {
						t.Errorf("%s without a reason: %+v", r.Result, r)
					}
					continue
				}
				want = take(t, want, r, c)
			}
			if reason := unprovable[c.File]; reason.missing != len(want) {
				t.Errorf("%d logins missed, want %d (%s): %+v", len(want), reason.missing, reason.why, want)
			}
		})
	}
}

// take removes the login that a success reports from what is still wanted.
func take(t *testing.T, want []corpusLogin, r replayed, c corpusTruth) []corpusLogin {
	t.Helper()
	for i, l := range want {
		if !l.matches(t, r) {
			continue
		}
		if l.User != "" && !strings.EqualFold(l.User, r.User) {
			t.Errorf("user %q, the server logged %q", r.User, l.User)
		}
		return append(append([]corpusLogin{}, want[:i]...), want[i+1:]...)
	}
	t.Errorf("FALSE success (attack: %v, %s): %+v", c.Attack, c.Note, r)
	return want
}

// unprovable lists the captures with logins that are real and cannot be proved
// from the capture, how many, and why.
var unprovable = map[string]struct {
	missing int
	why     string
}{
	"mid-dovecot-imap-after-greeting-0.pcap.gz": {1, "the capture does not show how the session began"},
	"mid-dovecot-imap-mid-line-0.pcap.gz":       {1, "the capture starts inside the LOGIN line"},
	"mid-dovecot-pop-after-user-0.pcap.gz":      {1, "the capture starts between USER and PASS"},
	"pkt-v6-exthdr-real-login-0.pcap.gz":        {2, "the capture filter left out the packets with extension headers that hold the LOGIN lines"},
	"fmt-dovecot-snap96-0.pcap.gz":              {1, "the PASS line is cut by the snap length"},
}
