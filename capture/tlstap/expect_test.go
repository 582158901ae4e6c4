package tlstap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExpects has servers that use no library yet: Dovecot starts a process
// that does with the first client.
func TestExpects(t *testing.T) {
	gnuTLS := []symbol{function("gnutls_record_recv", codeAddr), function("gnutls_record_send", codeAddr)}
	for _, test := range []struct {
		name string
		do   func(w *world) (want []string)
		seen bool
		says string
	}{
		{"nothing is installed", func(*world) []string { return nil }, false, "no TLS library was found"},
		{"something else is installed", func(w *world) []string {
			w.install(w.root+"/usr/lib/libssl3.so", openSSL...)
			w.install(w.root + "/usr/lib/libssl.so.3")
			return nil
		}, false, "no TLS library was found"},
		{"both are installed", func(w *world) []string {
			return []string{w.install(w.root+"/usr/lib64/libssl.so.3", openSSL...), w.install(w.root+"/usr/lib/libgnutls.so.30", gnuTLS...)}
		}, true, "watched in advance: /usr/lib"},
		{"two names of one file", func(w *world) []string {
			ssl := w.install(w.root+"/usr/lib/libssl.so.3.0", openSSL...)
			must(w.t, os.Link(ssl, w.root+"/usr/lib/libssl.so.3"))
			return []string{ssl}
		}, true, "watched in advance"},
		{"links stay in the root", func(w *world) []string {
			ssl := w.install(w.root+"/opt/libssl.so.3", openSSL...)
			outside := w.install(filepath.Join(w.t.TempDir(), "libssl.so.3"), openSSL...)
			must(w.t, os.MkdirAll(w.root+"/usr/lib", 0o755))
			for name, to := range map[string]string{"libssl.so.1": "/opt/libssl.so.3", "libssl.so.2": "../../../../../../opt/libssl.so.3", "libssl.so.3": outside} {
				must(w.t, os.Symlink(to, filepath.Join(w.root, "usr/lib", name)))
			}
			return []string{ssl}
		}, true, "watched in advance"},
		{"one is used already", func(w *world) []string {
			ssl := w.install(w.root+"/usr/lib/libssl.so.3", openSSL...)
			w.process(11, 10, "login", "/", ssl)
			return []string{ssl}
		}, true, "is read through /usr/lib/libssl.so.3"},
		{"another library is used", func(w *world) []string {
			w.install(w.root+"/usr/lib/libssl.so.3", openSSL...)
			w.process(11, 10, "login", "/", w.library("libwolfssl.so.1"))
			return nil
		}, false, "it uses wolfSSL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.process(10, 1, "maild", "/")
			want := test.do(w)
			w.tables.set(held(imaps, 1, 10))
			w.scan(0)
			w.want(want...)
			w.scan(unusedAfter)
			w.scan(unusedAfter)
			w.want(want...)
			s := w.finder.Servers()[0]
			if s.Seen() != test.seen || !strings.Contains(s.String(), test.says) {
				t.Errorf("seen %v: %v, want %q", s.Seen(), s, test.says)
			}
			w.tables.set()
			w.scan(unusedAfter)
			w.scan(unusedAfter)
			w.want()
		})
	}
}

// TestExpectationEnds expects of a server what is installed until it is known
// what it uses.
func TestExpectationEnds(t *testing.T) {
	w := newWorld(t)
	ssl := w.install(w.root+"/usr/lib/libssl.so.3", openSSL...)
	old := w.install(w.root+"/usr/lib/libssl.so.1.1", openSSL...)
	w.process(10, 1, "maild", "/")
	w.tables.set(held(imaps, 1, 10))
	w.scan(0)
	w.want(ssl, old)

	for i := range unreadLimit {
		if s := w.finder.Servers()[0]; !s.Seen() {
			t.Errorf("after %d connections that were not read: %v", i, s)
		}
		w.finder.Judged(connection(), false)
		w.scan(interval)
	}
	if s := w.finder.Servers()[0]; s.Seen() || !strings.Contains(s.Why, "no TLS library was found") {
		t.Errorf("after %d connections that were not read: seen %v, %q", unreadLimit, s.Seen(), s.Why)
	}
	w.process(11, 10, "login", "/", ssl)
	w.finder.Judged(connection(), true)
	w.scan(interval)
	w.scan(unusedAfter)
	w.want(ssl)
	if s := w.finder.Servers()[0]; !s.Seen() || len(s.Libraries) != 1 {
		t.Errorf("server is %+v", s)
	}
	w.end(11)
	w.scan(unusedAfter)
	w.scan(unusedAfter)
	w.want(ssl)
}
