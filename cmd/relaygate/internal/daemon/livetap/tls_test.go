package livetap

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/capture/tlstap"
	"relaygate/cmd/relaygate/internal/control"
)

func TestUnseenServersAreNamed(t *testing.T) {
	at := func(addr string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(addr)} }
	used := []tlstap.LibraryUse{{Path: "/usr/lib/libssl.so.3", Users: []string{"imap-login"}, Attached: true}}
	advance := []tlstap.LibraryUse{{Path: "/usr/lib/libssl.so.3", Attached: true}}
	dovecot := tlstap.Server{Name: "dovecot", PID: 12, Listeners: at("[::]:993"), Libraries: used}
	for _, tt := range []struct {
		name   string
		server tlstap.Server
		speaks bool
		want   string // the problem with dovecot beside it, "" for none
	}{
		{"seen", tlstap.Server{Name: "nginx", PID: 5, Listeners: at("[::]:143"), Libraries: used}, true, ""},
		{"clear text", tlstap.Server{Name: "popa3d", PID: 5, Listeners: at("[::]:110"), Why: "no TLS library was found"}, false, ""},
		{"clear text, watched in advance", tlstap.Server{Name: "popa3d", PID: 5, Listeners: at("[::]:110"), Libraries: advance}, false, ""},
		{
			"a TLS port",
			tlstap.Server{Name: "maild", PID: 5, Listeners: at("[::]:995"), Why: "no TLS library was found"},
			true,
			"1 of 2 TLS servers is seen; maild (pid 5) is not, because no TLS library was found",
		},
		{
			"STARTTLS",
			tlstap.Server{Name: "maild", PID: 5, Listeners: at("[::]:143"), Handshakes: 1, Why: "no TLS library was found"},
			true,
			"1 of 2 TLS servers is seen; maild (pid 5) is not, because no TLS library was found",
		},
		{
			"a name that acts on terminals",
			tlstap.Server{Name: "\x1b[2Jmaild", PID: 5, Listeners: at("[::]:993"), Why: `"no"`},
			true,
			`1 of 2 TLS servers is seen; \x1b[2Jmaild (pid 5) is not, because "no"`,
		},
	} {
		if got := encrypts(&tt.server); got != tt.speaks {
			t.Errorf("%s: speaks TLS %v, want %v", tt.name, got, tt.speaks)
		}
		if got := unseen([]tlstap.Server{dovecot, tt.server}); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestUnseenServersAreToldTogether(t *testing.T) {
	got := unseen([]tlstap.Server{
		{Name: "a", PID: 1, Handshakes: 1, Why: "x"}, {Name: "b", PID: 2, Handshakes: 1, Why: "y"}, {Name: "c", PID: 3, Handshakes: 1, Why: "x"},
	})
	const want = "0 of 3 TLS servers are seen; a (pid 1) and c (pid 3) are not, because x; b (pid 2) is not, because y"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestStatusSaysWhyTLSIsNotRead(t *testing.T) {
	for _, tt := range []struct{ why, want string }{
		{"", ""},
		{"this kernel has no uprobes", `logins in TLS are not seen: this kernel has no uprobes (where that is as it should be: watch.tls = "off")`},
	} {
		var s control.Status
		tls := &TLS{why: tt.why}
		tls.Status(&s)
		if got := strings.Join(s.Problems, "; "); got != tt.want || s.TLS.On || s.TLS.Why != tt.why || s.TLS.Servers == nil {
			t.Errorf("%q: problems %q, %+v", tt.why, got, s.TLS)
		}
	}
}

// What passes does not keep TLS from being read until the next start.
func TestWhatKeepsTLSFromBeingRead(t *testing.T) {
	none := &bpf.FeatureError{Feature: "uprobes", Since: "4.17", Err: ebpf.ErrNotSupported}
	short := &bpf.FeatureError{Feature: "uprobes", Since: "4.17", Err: unix.ENOMEM}
	for _, tt := range []struct {
		uprobes, numbers error
		want             string
	}{
		{nil, nil, ""},
		{short, nil, ""},
		{none, nil, "this kernel has no uprobes (Linux 4.17 or newer has)"},
		{nil, bpf.ErrOwnPIDs, bpf.ErrOwnPIDs.Error()},
		{short, bpf.ErrOwnPIDs, bpf.ErrOwnPIDs.Error()},
		{none, bpf.ErrOwnPIDs, "this kernel has no uprobes (Linux 4.17 or newer has); " + bpf.ErrOwnPIDs.Error()},
	} {
		if got := forGood(tt.uprobes, tt.numbers); got != tt.want {
			t.Errorf("%v, %v: %q, want %q", tt.uprobes, tt.numbers, got, tt.want)
		}
	}
}

func TestReadingThatHangsIsTold(t *testing.T) {
	early, late := hangs("process 7", hangsAfter-1), hangs("/lib/\x1b[2Jssl", 5*time.Minute)
	if early != "" || !strings.Contains(late, `/lib/\x1b[2Jssl for 5 min`) {
		t.Errorf("it says %q, and %q", early, late)
	}
}
