package linetest

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"relaygate/authz"
)

// Lasting is a Dialogue that can begin anew.
type Lasting interface {
	Dialogue
	Reset()
	TrustPeer()
}

// Scripts runs testdata/NAME.txt, with a new dialogue for each case, and again with
// one for all, which knows the last greeting and the last answers.
func Scripts[D Lasting](t *testing.T, start func() D, names ...string) {
	one := start()
	for _, name := range names {
		path := "testdata/" + name + ".txt"
		t.Run(name, func(t *testing.T) { Run(t, path, func() Dialogue { return start() }) })
		t.Run(name+" again", func(t *testing.T) {
			Run(t, path, func() Dialogue {
				one.Reset()
				return one
			})
		})
	}
}

// Hostile plays random clients, who send anything or have a plan, against random
// servers: a success must be one of the server's.
func Hostile[D Lasting](t *testing.T, server func(*rand.Rand) Server, anything, plan func(*rand.Rand) []Segment, start func() D) {
	believed, loggedIn, tainted := 0, 0, 0
	n := play(t, 20000, func(r *rand.Rand) (Server, []Segment, Dialogue) {
		s, client := server(r), anything(r)
		if r.IntN(2) == 0 {
			client = plan(r)
		}
		if r.IntN(3) == 0 {
			hold(r, client)
		}
		if r.IntN(6) == 0 {
			s = &late{Server: s, behind: 1 + r.IntN(3)}
		}
		d := start()
		if r.IntN(2) == 0 {
			d.TrustPeer()
		}
		return s, client, d
	}, func(user string, verdicts []authz.Login) {
		for _, l := range verdicts {
			switch l.Result {
			case authz.Success:
				believed++
			case authz.Tainted:
				tainted++
			}
		}
		if user != "" {
			loggedIn++
		}
	})
	t.Logf("%d dialogues: %d logins, %d of them believed, %d tainted", n, loggedIn, believed, tainted)
	if believed == 0 || tainted == n {
		t.Errorf("believed %d of %d, tainted %d: the clients prove nothing", believed, n, tainted)
	}
}

// Honest plays honest clients: most of their logins must be believed.
func Honest[D Lasting](t *testing.T, deal func(*rand.Rand) (Server, []Segment), start func() D) {
	believed, loggedIn := 0, 0
	n := play(t, 5000, func(r *rand.Rand) (Server, []Segment, Dialogue) {
		s, client := deal(r)
		return s, client, start()
	}, func(user string, verdicts []authz.Login) {
		if user == "" {
			return
		}
		loggedIn++
		if len(verdicts) > 0 && verdicts[len(verdicts)-1].Result == authz.Success {
			believed++
		}
	})
	t.Logf("%d dialogues: %d logins, %d believed", n, loggedIn, believed)
	if loggedIn < n/2 || believed < loggedIn*95/100 {
		t.Errorf("believed %d of %d logins in %d dialogues, want 95 %%", believed, loggedIn, n)
	}
}

// play plays dialogues(few), each with a server, a client who talks to it, and the dialogue
// that listens, and tells who is logged in at the end.
func play(t *testing.T, few int, deal func(*rand.Rand) (Server, []Segment, Dialogue), each func(user string, verdicts []authz.Login)) int {
	n := dialogues(few)
	for i := range n {
		r := rand.New(rand.NewPCG(uint64(few), uint64(i)))
		server, client, d := deal(r)
		verdicts, err := talk(r, server, client, d)
		if err != nil {
			t.Fatalf("dialogue %d with %+v: %v", i, server, err)
		}
		each(server.User(), verdicts)
	}
	return n
}

// Talk is what server and client say in turn, the server's greeting first.
func Talk(greeting string, lines ...string) []authz.Chunk {
	chunks := []authz.Chunk{{Dir: authz.FromServer, Bytes: []byte(greeting + "\r\n")}}
	for i, l := range lines {
		chunks = append(chunks, authz.Chunk{Dir: authz.Dir(i % 2), Bytes: []byte(l + "\r\n")})
	}
	return chunks
}

// NoCanary lets clients type the canary: it is in no verdict, and in nothing that the
// dialogue keeps once its line was answered. Behind its slices kept looks.
func NoCanary[D Dialogue](t *testing.T, start func() D, kept func(D) any, talks [][]authz.Chunk) {
	for _, whole := range talks {
		for _, chunks := range [][]authz.Chunk{whole, drip(whole)} {
			d := start()
			for _, c := range chunks {
				if verdicts := d.Feed(c); Holds(verdicts) {
					t.Errorf("%s: the password is in %+v", join(whole), verdicts)
				}
			}
			if Holds(d) || Holds(kept(d)) {
				t.Errorf("%s: the password is still in %#v", join(whole), d)
			}
		}
	}
}

// Allocates checks that a connection costs so many allocations at most, and that its
// first command, which is no login, and the answer cost none.
func Allocates[D Dialogue](t *testing.T, start func() D, most float64, whole []authz.Chunk) {
	if got := testing.AllocsPerRun(100, func() {
		d := start()
		for _, c := range whole {
			d.Feed(c)
		}
	}); got > most {
		t.Errorf("%v allocations for a connection, want at most %v", got, most)
	}
	d := start()
	d.Feed(whole[0])
	if got := testing.AllocsPerRun(100, func() {
		d.Feed(whole[1])
		d.Feed(whole[2])
	}); got != 0 {
		t.Errorf("%v allocations for %q and its answer, want 0", got, whole[1].Bytes)
	}
}

// Resets checks that nothing of a dialogue is left by Reset, wherever it stood.
// forget takes from it the answers that it may know, and returns its commands with
// what is behind their end.
func Resets[D Lasting, C any](t *testing.T, start func() D, forget func(D) []C, greeting string, clients, servers []string) {
	for _, client := range clients {
		for _, server := range servers {
			d := start()
			d.Feed(authz.Chunk{Dir: authz.FromServer, Bytes: []byte(greeting)})
			d.Feed(authz.Chunk{Dir: authz.FromClient, Bytes: []byte(client)})
			d.Feed(authz.Chunk{Dir: authz.FromServer, Bytes: []byte(server)})
			d.TrustPeer()
			d.Reset()
			commands := forget(d)
			if diff := cmp.Diff(start(), d, cmp.Exporter(func(reflect.Type) bool { return true }), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("after %q, %q: %s", client, server, diff)
			}
			for _, c := range commands[1:] {
				if !reflect.ValueOf(c).IsZero() {
					t.Fatalf("after %q, %q a command is left: %+v", client, server, c)
				}
			}
		}
	}
}

// Benchmark has one dialogue read a connection up to its login, again and again.
func Benchmark[D Lasting](b *testing.B, start func() D, whole []authz.Chunk) {
	b.ReportAllocs()
	d := start()
	for b.Loop() {
		d.Reset()
		for _, c := range whole {
			d.Feed(c)
		}
		if !d.Done() {
			b.Fatal("no verdict")
		}
	}
}
