package demo

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
)

// loginIMAPS shows a login that packets do not show, if this machine has a
// server with a TLS library of its own.
func (d *demo) loginIMAPS(ctx context.Context) (err error) {
	if _, err := exec.LookPath(lab.OpenSSL); err != nil {
		d.say("not shown: there is no openssl program here; install it and run the demo again")
		return nil
	}
	s, err := lab.StartIMAPS(d.net.Server, d.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	server, err := d.attached(ctx)
	if err != nil || server == nil {
		return err
	}
	d.say("%s", server.Words)
	to := d.net.Client4.At(lab.Server4)
	script := lab.IMAPSLogin(lab.Server4, lab.Password)
	answer, version, ok, err := to.LoginTLS(ctx, script)
	if err != nil {
		return err
	}
	d.say("%s, %s in %s: %s → %s", to.Name, script.Protocol, version, script.Shown, answer)
	if !ok {
		return fmt.Errorf("the mail server answered %q", answer)
	}
	return d.opens(ctx, to)
}

// attached waits until the TLS of the server on port 993 is read. It is nil, and
// that is told, where this machine does not allow it.
func (d *demo) attached(ctx context.Context) (server *control.TLSServer, err error) {
	client := control.NewClient(d.daemon.Socket)
	why := ""
	waited := lab.Poll(ctx, 20*time.Second, 50*time.Millisecond, func() error {
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		if why = status.TLS.Why; why != "" {
			return nil
		}
		why = "the server was not found"
		for i, s := range status.TLS.Servers {
			if slices.ContainsFunc(s.Listeners, func(l string) bool { return strings.HasSuffix(l, fmt.Sprintf(":%d", lab.IMAPSPort)) }) {
				server, why = &status.TLS.Servers[i], string(s.Words)
			}
		}
		if server == nil || !server.Seen {
			return errors.New(why)
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil, waited
	}
	if server == nil || !server.Seen {
		d.say("not shown: TLS cannot be read here: %s", why)
		return nil, nil
	}
	return server, nil
}
