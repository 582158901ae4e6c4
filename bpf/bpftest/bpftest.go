// Package bpftest has what tests of kernel parts share: who may run them,
// namespaces that end with the test, what a connection needs, frames on a wire, and Must.
//
// A tap sees every namespace of the machine, and the tests of packages run side
// by side. So a package listens on ports that no other package's tap watches:
// bpf on 61143, capture/sockdiag on 61144 to 61151, capture on 61152 and
// capture/tlstap on 61153, all above the ports that the kernel gives to clients.
package bpftest

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf/netns"
)

// RequireRoot skips the test without root and says what it needs. In CI a
// skipped kernel test is a failure.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const need = "needs root (CAP_NET_ADMIN, CAP_BPF, CAP_SYS_ADMIN): run `sudo make test`"
	if os.Getenv("CI") != "" {
		t.Fatal("kernel test skipped in CI: " + need)
	}
	t.Skip(need)
}

// Prefixes are those of texts that are right.
func Prefixes(texts ...string) (list []netip.Prefix) {
	for _, s := range texts {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// Namespace makes a network namespace that is closed with the test.
func Namespace(t testing.TB) *netns.Namespace {
	t.Helper()
	RequireRoot(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Errorf("close network namespace: %v", err)
		}
	})
	return ns
}

// Must ends a test whose world fails.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Do runs fn inside ns and ends the test on an error.
func Do(t testing.TB, ns *netns.Namespace, fn func() error) {
	t.Helper()
	Must(t, ns.Do(fn))
}

// In runs fn inside ns. What fails there, by Must or t.Fatal, ends the test.
func In(t testing.TB, ns *netns.Namespace, fn func()) {
	t.Helper()
	Do(t, ns, func() error {
		fn()
		return nil
	})
}

// RequireLinux skips the test on kernels that are too old for what it is about.
// On newer ones a missing feature is a failure.
func RequireLinux(t testing.TB, major, minor int, feature string) {
	t.Helper()
	var name unix.Utsname
	Must(t, unix.Uname(&name))
	var gotMajor, gotMinor int
	release := unix.ByteSliceToString(name.Release[:])
	if _, err := fmt.Sscanf(release, "%d.%d", &gotMajor, &gotMinor); err != nil {
		t.Fatalf("read the kernel's release %q: %v", release, err)
	}
	if gotMajor < major || gotMajor == major && gotMinor < minor {
		t.Skipf("Linux %s has no %s (%d.%d has)", release, feature, major, minor)
	}
}
