package livetap

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/capture/tlstap"
	"relaygate/cmd/relaygate/internal/control"
)

// Status adds what is known of the servers.
func (t *TLS) Status(s *control.Status) {
	s.TLS.On, s.TLS.Why, s.TLS.Servers = t.finder != nil, t.why, []control.TLSServer{}
	if t.why != "" {
		s.Problems = append(s.Problems, "logins in TLS are not seen: "+t.why+` (where that is as it should be: watch.tls = "off")`)
	}
	if t.finder == nil {
		return
	}
	if what, since, ok := t.finder.Busy(); ok {
		if words := hangs(what, time.Since(since)); words != "" {
			s.Problems = append(s.Problems, words)
		}
	}
	t.count(s)
	servers := t.finder.Servers()
	s.TLS.Servers = newTLSServers(servers)
	if s.TLS.Lacks = unseen(servers); s.TLS.Lacks != "" {
		s.Problems = append(s.Problems, s.TLS.Lacks)
	}
}

// hangsAfter is how long a look at a process or a library may take.
const hangsAfter = 30 * time.Second

// hangs says that it takes longer, in words; "" if not. Who maps a library chose its path.
func hangs(what string, took time.Duration) string {
	if took < hangsAfter {
		return ""
	}
	return fmt.Sprintf("the look at TLS servers is held up by %s for %s, as where a file system hangs: logins in TLS to servers that are newer are not seen",
		printable(what), authz.Span(took))
}

// count adds what the programs on the libraries have counted.
func (t *TLS) count(s *control.Status) {
	c, err := t.programs.TLSCounters()
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
		return
	}
	s.TLS.Calls = c.Plain
	maps.Copy(s.Drops, map[string]uint64{
		"tls: handshakes without room in the kernel's table":             c.RandomsFull,
		"tls: connections in doubt, two with one handshake":              c.SameRandom,
		"tls: connections in doubt, two handshakes":                      c.TwoHellos,
		"tls: connections in doubt, begun before their server was known": c.Late,
		"tls: connections in doubt, too much said or the ring full":      c.PlainLost,
		"tls: calls that said more than a record holds":                  c.PlainTruncated,
		"tls: calls without room":                                        c.CallsFull,
		"tls: calls whose end was not seen":                              c.Unseen,
		"tls: calls on what could not be read":                           c.Unread,
	})
}

// Share adds who else uses the servers' libraries, which costs more to find out.
func (t *TLS) Share(s *control.Status) {
	if t.finder != nil {
		s.TLS.Servers = newTLSServers(t.finder.Coverage())
	}
}

// unseen says which servers' TLS is not read, in words; "" if all are.
func unseen(servers []tlstap.Server) string {
	all, seen := 0, 0
	who := make(map[string][]string) // by why
	var whys []string
	for i := range servers {
		s := &servers[i]
		if !encrypts(s) {
			continue
		}
		all++
		if s.Seen() {
			seen++
			continue
		}
		if who[s.Why] == nil {
			whys = append(whys, s.Why)
		}
		who[s.Why] = append(who[s.Why], printable(s.Who()))
	}
	if seen == all {
		return ""
	}
	words := fmt.Sprintf("%d of %d TLS servers %s seen", seen, all, isAre(seen))
	for _, why := range whys {
		words += fmt.Sprintf("; %s %s not, because %s", strings.Join(who[why], " and "), isAre(len(who[why])), printable(why))
	}
	return words
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func newTLSServers(servers []tlstap.Server) []control.TLSServer {
	out := make([]control.TLSServer, len(servers))
	for i := range servers {
		out[i] = newTLSServer(&servers[i])
	}
	return out
}

func newTLSServer(s *tlstap.Server) control.TLSServer {
	out := control.TLSServer{
		Name: control.Text(s.Name), PID: s.PID, Listeners: []string{}, Processes: s.Processes,
		TLS: encrypts(s), Seen: s.Seen(), Words: control.Text(s.String()),
		Handshakes: s.Handshakes, Read: s.Read, Libraries: []control.TLSLibrary{},
	}
	for _, l := range s.Listeners {
		out.Listeners = append(out.Listeners, l.String())
	}
	for _, l := range s.Libraries {
		out.Libraries = append(out.Libraries, control.TLSLibrary{
			Path: control.Text(l.Path), Users: texts(l.Users), Others: texts(l.Others),
			Attached: l.Attached, Why: control.Text(l.Why),
		})
	}
	return out
}

func texts(list []string) []control.Text {
	out := make([]control.Text, len(list))
	for i, s := range list {
		out[i] = control.Text(s)
	}
	return out
}
