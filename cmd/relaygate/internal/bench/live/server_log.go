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

// logTo lets the server note logins in a Task's File from now on, or nowhere.
func logTo(t Task) (Result, error) {
	var f *os.File
	if t.File != "" {
		var err error
		if f, err = os.OpenFile(t.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
			return Result{}, fmt.Errorf("open the log of logins: %w", err)
		}
	}
	if old := loginLog.Swap(f); old != nil {
		return Result{}, old.Close()
	}
	return Result{}, nil
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
