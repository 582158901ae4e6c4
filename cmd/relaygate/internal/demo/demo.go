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
	"time"

	"relaygate/cmd/relaygate/internal/lab"
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
	net    *lab.Network
	mail   *lab.MailServer
	daemon *lab.Daemon
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
		d.step++
		fmt.Fprintf(d.Out, "\n[%d] %s\n", d.step, step.what)
		err := step.do(ctx)
		if ctx.Err() != nil { // what did not hold says nothing then
			return fmt.Errorf("demo interrupted in step %d: %w", d.step, context.Cause(ctx))
		}
		if err != nil {
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
		{"The IPv4 client logs in by IMAPS, where packets show nothing: port 25 opens to it again", d.loginIMAPS},
		{"relaygate stops on SIGTERM", d.stop},
	}
}

func (d *demo) makeNetwork(context.Context) (err error) {
	if d.net, err = lab.NewNetwork(); err != nil {
		return err
	}
	d.say("server %s and %s; clients %s and %s; stranger %s and %s",
		lab.Server4, lab.Server6, lab.Client4, lab.Client6, lab.Stranger4, lab.Stranger6)
	return nil
}

func (d *demo) startServers(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp(lab.TempDir(32<<20), "relaygate-demo-"); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	if d.mail, err = lab.StartMailServer(d.net.Server); err != nil {
		return err
	}
	if d.daemon, err = lab.StartDaemon(ctx, d.net.Server, lab.Options{Exe: d.Exe, Dir: d.dir, Lifetime: lifetime}); err != nil {
		return err
	}
	d.say("relaygate is ready; its configuration:")
	d.quote(d.daemon.Config)
	return nil
}

func (d *demo) everybodyRefused(ctx context.Context) error {
	return d.expectClosed(ctx, d.net.Everybody()...)
}

func (d *demo) wrongPasswords(ctx context.Context) error {
	if err := d.login(ctx, d.net.Client4, lab.POP3Login(lab.Server4, "wrong"), false); err != nil {
		return err
	}
	if err := d.login(ctx, d.net.Client6, lab.IMAPLogin(lab.Server6, "wrong"), false); err != nil {
		return err
	}
	return d.expectClosed(ctx, d.net.Client4.At(lab.Server4), d.net.Client6.At(lab.Server6))
}

func (d *demo) loginPOP3(ctx context.Context) error {
	return d.loginOpens(ctx, d.net.Client4.At(lab.Server4), lab.POP3Login(lab.Server4, lab.Password))
}

func (d *demo) loginIMAP(ctx context.Context) error {
	return d.loginOpens(ctx, d.net.Client6.At(lab.Server6), lab.IMAPLogin(lab.Server6, lab.Password))
}

// login plays a script and checks that the mail server answered as it should.
func (d *demo) login(ctx context.Context, h *lab.Host, s lab.Script, want bool) error {
	answer, ok, err := h.Login(ctx, s)
	if err != nil {
		return err
	}
	d.say("%s, %s: %s → %s", h.Name, s.Protocol, s.Shown, answer)
	if ok != want {
		return fmt.Errorf("the mail server answered %q", answer)
	}
	return nil
}

// loginOpens logs in, and measures from the positive answer how long port 25
// stays closed.
func (d *demo) loginOpens(ctx context.Context, t lab.Target, s lab.Script) error {
	if err := d.login(ctx, t.Host, s, true); err != nil {
		return err
	}
	return d.opens(ctx, t)
}

// opens measures from now to the first connection to port 25 that is let in.
func (d *demo) opens(ctx context.Context, t lab.Target) error {
	start, tries, greeting := time.Now(), 0, ""
	err := lab.Poll(ctx, 5*time.Second, 500*time.Microsecond, func() (err error) {
		tries++
		greeting, err = t.Open(ctx)
		return err
	})
	if err != nil {
		return err
	}
	d.say("%s is open %.1f ms after the positive answer (try %d): %s",
		t, float64(time.Since(start).Microseconds())/1000, tries, greeting)
	return nil
}

func (d *demo) strangerRefused(ctx context.Context) error {
	return d.expectClosed(ctx, d.net.Stranger.At(lab.Server4), d.net.Stranger.At(lab.Server6))
}

func (d *demo) relayhosts(ctx context.Context) error {
	want := fmt.Sprintf("%s\n%q\n", lab.Client4, lab.Client6.String())
	if err := waitFile(ctx, d.daemon.Relayhosts, want, 5*time.Second); err != nil {
		return err
	}
	d.say("%s:", d.daemon.Relayhosts)
	d.quote(want)
	return nil
}

func (d *demo) explain(ctx context.Context) error {
	if err := d.verb(ctx, "list"); err != nil {
		return err
	}
	for _, addr := range []netip.Addr{lab.Client4, lab.Stranger4} {
		if err := d.verb(ctx, "why", addr.String()); err != nil {
			return err
		}
	}
	return d.verb(ctx, "status")
}

func (d *demo) runOut(ctx context.Context) error {
	for _, t := range []lab.Target{d.net.Client4.At(lab.Server4), d.net.Client6.At(lab.Server6)} {
		err := lab.Poll(ctx, lifetime+3*time.Second, 100*time.Millisecond, func() error { return t.Refused(ctx) })
		if err != nil {
			return err
		}
		d.say("%s is refused", t)
	}
	if err := waitFile(ctx, d.daemon.Relayhosts, "", 20*time.Second); err != nil {
		return err
	}
	d.say("the relayhosts file is empty again")
	return d.verb(ctx, "why", lab.Client4.String())
}

func (d *demo) stop(context.Context) error {
	if err := d.daemon.Stop(); err != nil {
		return err
	}
	d.say("it ended by itself, and its programs left the kernel with it")
	return nil
}

// expectClosed checks that each target refuses the connection.
func (d *demo) expectClosed(ctx context.Context, targets ...lab.Target) error {
	for _, t := range targets {
		if err := t.Refused(ctx); err != nil {
			return err
		}
		d.say("%s is refused", t)
	}
	return nil
}

// cleanUp undoes what the steps made, in reverse.
func (d *demo) cleanUp() error {
	var errs []error
	if d.daemon != nil {
		errs = append(errs, d.daemon.Stop())
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
