package daemon

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// systemd listens as systemd does, and returns what it was told since.
func systemd(t *testing.T) (told func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000000")
	const end = "behind all that was told"
	return func() string {
		own, err := net.Dial("unixgram", path)
		must(t, err)
		_, err = own.Write([]byte(end))
		must(t, errors.Join(err, own.Close()))
		var all strings.Builder
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			must(t, err)
			if string(buf[:n]) == end {
				return all.String()
			}
			all.Write(buf[:n])
		}
	}
}

func TestWatchdogIsServedWhileBothLoopsTurn(t *testing.T) {
	told := systemd(t)
	beat := now
	w := newWatchdog(func() time.Time { return beat }, slog.New(slog.DiscardHandler))
	for _, tt := range []struct {
		name  string
		after time.Duration
		beat  time.Duration
		want  string
	}{
		{"at the start", 0, 0, "WATCHDOG=1"},
		{"too soon", 5 * time.Second, 5 * time.Second, ""},
		{"a third of the limit later", 10 * time.Second, 9 * time.Second, "WATCHDOG=1"},
		{"the gate is slow", 25 * time.Second, 9 * time.Second, "WATCHDOG=1"},
		{"the gate hangs", 45 * time.Second, 9 * time.Second, ""},
		{"it turns again", 46 * time.Second, 46 * time.Second, "WATCHDOG=1"},
	} {
		beat = now.Add(tt.beat)
		w.look(now.Add(tt.after))
		if got := told(); got != tt.want {
			t.Errorf("%s: systemd was told %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestReloadingIsToldWithItsTime(t *testing.T) {
	told := systemd(t)
	notifyReloading(slog.New(slog.DiscardHandler))
	if got := told(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("systemd was told %q", got)
	}
}

// The loop that decides about logins, a reload and a stop wait for no systemd that froze.
func TestFrozenSystemdIsNotWaitedFor(t *testing.T) {
	systemd(t)
	path := os.Getenv("NOTIFY_SOCKET")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer func() { must(t, unix.Close(fd)) }()
	must(t, unix.Connect(fd, &unix.SockaddrUnix{Name: path}))
	for err == nil {
		_, err = unix.Write(fd, []byte("STATUS=something else"))
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("fill its queue: %v", err)
	}
	log := slog.New(slog.DiscardHandler)
	w := newWatchdog(func() time.Time { return now }, log)
	for name, tt := range map[string]struct {
		do     func()
		within time.Duration
	}{
		"a sign of life": {func() { w.look(now) }, notifyWithin},
		"a reload":       {func() { notifyReloading(log) }, 10 * notifyWithin},
	} {
		took := tt.within
		for tries := 0; took >= tt.within; tries++ {
			if tries == 3 { // not for want of a processor
				t.Fatalf("%s waits", name)
			}
			begin := time.Now()
			tt.do()
			took = time.Since(begin)
		}
	}
}

func TestWithoutSystemdNothingIsTold(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	w := newWatchdog(func() time.Time { t.Error("the gate is asked"); return now }, slog.New(slog.DiscardHandler))
	w.look(now)
}
