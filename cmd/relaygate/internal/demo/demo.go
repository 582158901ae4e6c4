//go:build linux

// Package demo shows the whole program at work on one machine: throw-away
// network namespaces for a mail server, two clients and a stranger, the real
// daemon with a real configuration, and real TCP connections. Every step is
// checked; the first that fails ends the demo with an error.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// Options say how to run.
type Options struct {
	// Exe is the relaygate binary that plays the daemon and the verbs.
	Exe string
	// Out takes the story.
	Out io.Writer
}

// lifetime is how long the demo's grants live: long enough to show them, short
// enough to see them run out.
const lifetime = 6 * time.Second

// demo holds what the steps share.
type demo struct {
	Options
	net    *network
	mail   *mailServer
	daemon *daemon
	dir    string
	step   int
}

// Run plays the demo until its end, the first failed check, or ctx is done. It
// leaves nothing behind: no namespace, process, file or kernel object.
func Run(ctx context.Context, opts Options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the demo makes network namespaces and loads BPF programs: run it as root")
	}
	d := &demo{Options: opts}
	defer func() { err = errors.Join(err, d.cleanUp()) }()
	for _, step := range d.steps() {
		if ctx.Err() != nil {
			return fmt.Errorf("demo interrupted: %w", context.Cause(ctx))
		}
		d.step++
		fmt.Fprintf(d.Out, "\n[%d] %s\n", d.step, step.what)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("demo step %d (%s): %w", d.step, step.what, err)
		}
	}
	fmt.Fprintf(d.Out, "\nAll %d steps hold.\n", d.step)
	return nil
}

type step struct {
	what string
	do   func(context.Context) error
}

func (d *demo) steps() []step {
	return []step{
		{"Make a network: a mail server, an IPv4 client, an IPv6 client, a stranger", d.makeNetwork},
		{"Start a POP3, IMAP and SMTP server, and relaygate beside it", d.startServers},
		{"Nobody has logged in: port 25 is closed to everybody", d.everybodyRefused},
		{"The IPv4 client tries POP3 with a wrong password, the IPv6 client IMAP: still closed", d.wrongPasswords},
		{"The IPv4 client logs in by POP3: port 25 opens to it", d.loginPOP3},
		{"The IPv6 client logs in by IMAP: port 25 opens to it", d.loginIMAP},
		{"The stranger is still refused, over IPv4 and IPv6", d.strangerRefused},
		{"The relayhosts file names both clients and nobody else", d.relayhosts},
		{"Every address can be explained", d.explain},
		{fmt.Sprintf("The grants run out after %v: port 25 is closed again", lifetime), d.runOut},
		{"relaygate stops on SIGTERM", d.stop},
	}
}

func (d *demo) makeNetwork(context.Context) (err error) {
	if d.net, err = newNetwork(); err != nil {
		return err
	}
	d.say("server %s and %s; clients %s and %s; stranger %s and %s",
		server4, server6, client4, client6, stranger4, stranger6)
	return nil
}

func (d *demo) startServers(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "relaygate-demo-"); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	if d.mail, err = startMailServer(d.net.server); err != nil {
		return err
	}
	if d.daemon, err = startDaemon(ctx, d.Exe, d.dir, d.net.server); err != nil {
		return err
	}
	d.say("relaygate is ready; its configuration:")
	d.quote(d.daemon.config)
	return nil
}

func (d *demo) everybodyRefused(ctx context.Context) error {
	return d.expectClosed(ctx, d.net.everybody()...)
}

func (d *demo) wrongPasswords(ctx context.Context) error {
	if err := d.net.client4.login(ctx, d, pop3Login(server4, "wrong"), false); err != nil {
		return err
	}
	if err := d.net.client6.login(ctx, d, imapLogin(server6, "wrong"), false); err != nil {
		return err
	}
	return d.expectClosed(ctx, d.net.client4.at(server4), d.net.client6.at(server6))
}

func (d *demo) loginPOP3(ctx context.Context) error {
	return d.loginOpens(ctx, d.net.client4, pop3Login(server4, password), server4)
}

func (d *demo) loginIMAP(ctx context.Context) error {
	return d.loginOpens(ctx, d.net.client6, imapLogin(server6, password), server6)
}

// loginOpens logs in and measures from the positive answer to the first
// connection to port 25 that is accepted.
func (d *demo) loginOpens(ctx context.Context, c *host, s script, server netip.Addr) error {
	if err := c.login(ctx, d, s, true); err != nil {
		return err
	}
	start := time.Now()
	greeting, tries, err := c.dialSMTPUntilOpen(ctx, server, 2*time.Second)
	if err != nil {
		return err
	}
	d.say("%s → [%s]:25 is open %.1f ms after the positive answer (try %d): %q",
		c.name, server, float64(time.Since(start).Microseconds())/1000, tries, greeting)
	return nil
}

func (d *demo) strangerRefused(ctx context.Context) error {
	return d.expectClosed(ctx, d.net.stranger.at(server4), d.net.stranger.at(server6))
}

func (d *demo) relayhosts(ctx context.Context) error {
	path := filepath.Join(d.dir, "relayhosts")
	want := fmt.Sprintf("%s\n%q\n", client4, client6.String())
	if err := waitFile(ctx, path, want, 5*time.Second); err != nil {
		return err
	}
	d.say("%s:", path)
	d.quote(want)
	return nil
}

func (d *demo) explain(ctx context.Context) error {
	if err := d.verb(ctx, "list"); err != nil {
		return err
	}
	for _, addr := range []netip.Addr{client4, stranger4} {
		if err := d.verb(ctx, "why", addr.String()); err != nil {
			return err
		}
	}
	return d.verb(ctx, "status")
}

func (d *demo) runOut(ctx context.Context) error {
	for _, t := range []target{d.net.client4.at(server4), d.net.client6.at(server6)} {
		if err := t.waitRefused(ctx, lifetime+3*time.Second); err != nil {
			return err
		}
		d.say("%s", t.refusedLine())
	}
	if err := waitFile(ctx, filepath.Join(d.dir, "relayhosts"), "", 5*time.Second); err != nil {
		return err
	}
	d.say("the relayhosts file is empty again")
	return d.verb(ctx, "why", client4.String())
}

func (d *demo) stop(context.Context) error {
	if err := d.daemon.stop(); err != nil {
		return err
	}
	d.say("it ended by itself, and its programs left the kernel with it")
	return nil
}

// expectClosed checks that each target refuses the connection.
func (d *demo) expectClosed(ctx context.Context, targets ...target) error {
	for _, t := range targets {
		if err := t.refused(ctx); err != nil {
			return err
		}
		d.say("%s", t.refusedLine())
	}
	return nil
}

// cleanUp undoes what the steps made, in reverse.
func (d *demo) cleanUp() error {
	var errs []error
	if d.daemon != nil {
		errs = append(errs, d.daemon.stop())
	}
	if d.mail != nil {
		errs = append(errs, d.mail.Close())
	}
	if d.net != nil {
		errs = append(errs, d.net.Close())
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}
