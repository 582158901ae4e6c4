package lab_test

import (
	"bytes"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/lab"
)

// TestCanaryNeverComesOut lets clients send a unique password in every
// mechanism and position to a server that repeats it, and looks for it in
// everything that the daemon and the verbs put out, up to the text of a crash.
func TestCanaryNeverComesOut(t *testing.T) {
	s := newStage(t)
	check := func(where string, output []byte) { t.Helper(); free(t, where, output) }
	why := "why " + lab.Client4.String()
	everything := []string{"list", "status", "status --check", why, "why " + lab.Client6.String()}
	for _, d := range readDialogues(t, "testdata/canary.txt") {
		t.Run(d.name, func(t *testing.T) {
			conn := s.play(t, s.Client4, netip.AddrPortFrom(lab.Server4, d.port), d.chunks)
			s.sync(t)
			got := s.watched(t, conn)
			if n := len(d.want); len(got) == n+1 && got[n] == "tainted" {
				got = got[:n] // the end of the connection was in doubt
			}
			if diff := cmp.Diff(d.want, got); diff != "" {
				t.Errorf("verdicts (-want +got)\n%s", diff)
			}
			s.outputs(t, func(where string, output []byte) { t.Helper(); free(t, where, output) }, why)
		})
	}
	s.outputs(t, check, everything...)
	check("metrics", s.metrics(t))
	s.files(t, true, check)

	s.crashAmid(t)
	settles(t, 5*time.Second, func() error {
		if bytes.Count(s.watch.Bytes(), []byte("\n")) < bytes.Count(s.watchJSON.Bytes(), []byte("\n")) {
			return errors.New("the table lags behind")
		}
		return nil
	})
	for where, out := range map[string]*buffer{
		"stdout": &s.stdout, "the log and the crash text": &s.stderr, "watch": &s.watch, "watch --json": &s.watchJSON,
	} {
		check(where, out.Bytes())
	}
	s.files(t, false, check)
	if !bytes.Contains(s.stderr.Bytes(), []byte("SIGQUIT: quit")) {
		t.Errorf("there is no crash text:\n%s", s.stderr.Bytes())
	}
}

// crashAmid ends the daemon with SIGQUIT while clients have sent a half of what
// they have to say.
func (s *stage) crashAmid(t *testing.T) {
	t.Helper()
	for i, d := range []struct {
		port             uint16
		greeting, typing string
	}{
		{lab.POP3Port, "+OK\r\n", "PASS @PW@"},
		{lab.POP3Port, "+OK\r\n", "USER @PW@\r\nPASS @PW@"},
		{lab.POP3Port, "+OK\r\n", "AUTH PLAIN @64[\x00@PW@\x00@PW@]\r\n"},
		{lab.IMAPPort, "* OK\r\n", "@PW@ LOGIN @PW@ @PW@\r\n"},
		{lab.IMAPPort, "* OK\r\n", "@PW@ LOGIN @PW@ @PW@"},
		{lab.IMAPPort, "* OK\r\n", "a1 LOGIN @PW@ {40+}\r\n@PW@"},
	} {
		conn, err := s.Client4.Dial(t.Context(), netip.AddrPortFrom(lab.Server4, d.port))
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		// The server reads it, and so acknowledges it, and says nothing more
		// that ends the line.
		script := []authz.Chunk{
			{Dir: authz.FromServer, Bytes: []byte(d.greeting)},
			{Dir: authz.FromClient, Bytes: spoken(i, []byte(d.typing))},
		}
		s.script <- script
		must(t, errors.Join(speak(conn, script, authz.FromClient), <-s.served))
	}
	s.sync(t)
	s.end(t, syscall.SIGQUIT)
}
