package live

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// loginLog is where the server notes logins, nil for nowhere: only those that
// tail a log need one.
var loginLog atomic.Pointer[os.File]

// logTo lets the server note logins in a file from now on, or with "" nowhere.
func logTo(name string) error {
	var f *os.File
	if name != "" {
		var err error
		if f, err = os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
			return err
		}
	}
	if old := loginLog.Swap(f); old != nil {
		return old.Close()
	}
	return nil
}

// noteLogin writes what Dovecot logs of a login by way of syslog.
func noteLogin(fd int, user []byte) error {
	f := loginLog.Load()
	if f == nil {
		return nil
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return fmt.Errorf("ask who the client is: %w", err)
	}
	client, ok := peer.(*unix.SockaddrInet4)
	if !ok {
		return errors.New("the client has no IPv4 address")
	}
	_, err = fmt.Fprintf(f, "%s mail dovecot: pop3-login: Login: user=<%s>, method=PLAIN, rip=%s, lip=%s, mpid=%d\n",
		time.Now().Format(time.Stamp), user, netip.AddrFrom4(client.Addr), serverAddr, os.Getpid())
	return err
}
