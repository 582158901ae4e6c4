package pop3

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"relaygate/authz"
	"relaygate/authz/line"
)

// TestReset: nothing of a dialogue is left, wherever it stood.
func TestReset(t *testing.T) {
	for _, client := range []string{
		"", "a", "USER alice\r\n", "USER alice\r\nPASS secret\r\n", "AUTH PLAIN\r\n", "AUTH PLAIN AGEAYg==\r\n",
		"a1 LOGIN alice secret\r\n", "a1 LOGIN {5}\r\n", "a1 AUTHENTICATE PLAIN\r\n", "a1 NOOP\r\na2 NOOP\r\na3 NOOP\r\n", "\x16\x03",
	} {
		for _, server := range []string{"", "+", "+ \r\n", "+OK\r\n", "-ERR\r\n", "a1 OK\r\n", "a1 NO\r\n", "* BAD\r\n"} {
			d := New()
			d.Feed(authz.Chunk{Dir: authz.FromServer, Bytes: []byte("+OK <1@x> ready\r\n")})
			if d.Done() {
				d = New()
				d.Feed(authz.Chunk{Dir: authz.FromServer, Bytes: []byte("* OK ready\r\n")})
			}
			d.Feed(authz.Chunk{Dir: authz.FromClient, Bytes: []byte(client)})
			d.Feed(authz.Chunk{Dir: authz.FromServer, Bytes: []byte(server)})
			d.TrustPeer()
			d.Reset()
			d.answers = line.Answers{}
			if diff := cmp.Diff(New(), d, cmp.Exporter(func(reflect.Type) bool { return true }), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("after %q, %q: %s", client, server, diff)
			}
			for _, c := range d.waiting[1:cap(d.waiting)] {
				if !reflect.DeepEqual(c, command{}) {
					t.Fatalf("after %q, %q a command is left: %+v", client, server, c)
				}
			}
		}
	}
}
