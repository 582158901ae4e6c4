package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/daemon/message"
	"relaygate/nft"
)

// hangUps is where signals to read the configuration again come, from the start to the
// end: one that nobody waits for would end the daemon, and systemd take that for a
// clean exit.
func hangUps() (hup chan os.Signal, stop func()) {
	hup = make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	return hup, func() { signal.Stop(hup) }
}

// reloadOrder is who orders a reload, and why; done has room for what came of it.
type reloadOrder struct {
	by   control.By
	note string
	done chan error
}

// who is by whom it is ordered and why, in words.
func (o *reloadOrder) who() string { return string(o.by) + control.NoteText(o.note) }

// runReload reads the configuration again at each SIGHUP and each order.
func (d *daemon) runReload(ctx context.Context) error {
	for {
		o := reloadOrder{by: "SIGHUP", done: make(chan error, 1)}
		select {
		case <-ctx.Done():
			return nil
		case <-d.hup:
		case o = <-d.reloads:
		}
		notifyReloading(d.log)
		words := "the configuration was read again"
		err := d.reload(ctx)
		switch {
		case err == nil:
			d.log.Info(words, "gate", d.gate.Status().Mode, "by", o.who())
			d.reloadError.Store(nil)
		case errors.Is(err, errBehind): // which status tells for as long as it is so
			d.log.Error(words, "error", err, "by", o.who())
			d.reloadError.Store(nil)
			words += ": " + err.Error()
		default:
			d.log.Error(formerStays, "error", err, "by", o.who())
			words = formerStays + ": " + err.Error()
			d.reloadError.Store(&words)
		}
		d.hub.Tell(time.Now(), "reload", words)
		notify(d.log, sd.SdNotifyReady)
		o.done <- err
	}
}

const formerStays = "the former configuration stays"

// orderReload is a reload that somebody waits for.
func (d *daemon) orderReload(ctx context.Context, by control.By, note string) (result string, err error) {
	done := make(chan error, 1)
	err = message.Ask(ctx, d.reloads, reloadOrder{by, note, done}, done)
	switch {
	case err == nil:
		return "The configuration was read again, and is in force.", nil
	case errors.Is(err, errBehind):
		return "", fmt.Errorf("the configuration was read again: %w", err)
	case ctx.Err() != nil:
		return "", fmt.Errorf("relaygate ends, or is too busy and may carry it out yet: %w", err)
	}
	return "", &control.Refusal{Reason: formerStays + ": " + err.Error()}
}

// errBehind says that a configuration is in force, and the kernel is behind.
var errBehind = errors.New("the gate does not hold all of it yet")

// reload puts the configuration of the file in force, all of it or nothing.
func (d *daemon) reload(ctx context.Context) error {
	next, err := d.opts.Reload()
	if err != nil {
		return err
	}
	now := d.config.Load()
	if keys := fixed(now, next); len(keys) > 0 {
		return fmt.Errorf("%s can be changed by a restart alone", strings.Join(keys, ", "))
	}
	if err := shortened(next, now.Gate.Mode.String()); err != nil {
		return err
	}
	// The gate first: whether its sets are there the kernel must say.
	if err := d.gate.Reload(ctx, next); err != nil {
		return err
	}
	if next.Inside() {
		if err := d.tap.SetServers(next.Gate.Servers); err != nil {
			return err
		}
	}
	d.cutter.set.Store(settingsOf(&next.Gate))
	d.files.keep.Store(next.Gate.OnExit == config.ExitKeep)
	d.keeper.SetRetain(next.Retain)
	d.config.Store(next)
	d.keeper.PutRun(runOf(next))
	var refused error
	err = d.owner.ask(ctx, func(now time.Time) { refused = d.owner.reconfigure(now, next) })
	if err == nil {
		err = refused
	}
	if err != nil {
		return err
	}
	if err := d.gate.Settle(ctx); err != nil {
		return fmt.Errorf("%w: %w", errBehind, err)
	}
	return nil
}

// shortened is an error where a configuration has lost the mode of the gate of before, as
// one that was being written, or on a full disk, is short or empty.
func shortened(next *config.Config, before string) error {
	observe := nft.Observe.String()
	if next.Gate.Mode != nft.Observe || next.Gate.Named || before == "" || before == observe {
		return nil
	}
	return fmt.Errorf("the configuration names no gate.mode any more, which was %q, and so would open the ports to all: if that is meant, say mode = %q", before, observe)
}

// runOf is what a daemon with this configuration does.
func runOf(cfg *config.Config) keeper.Run {
	return keeper.Run{
		Mode: cfg.Gate.Mode.String(), Relayhosts: cfg.Relayhosts, Users: cfg.UsersFile, Keep: cfg.Gate.OnExit == config.ExitKeep,
	}
}

// reconfigure puts new bounds and rules in force.
func (o *owner) reconfigure(now time.Time, cfg *config.Config) error {
	changes := o.engine.Record(o.grants().SetConfig(now, cfg.Grants()))
	o.engine.Evidence().SetRetain(cfg.Retain)
	o.gate.SetLifetime(cfg.Lifetime)
	for _, c := range changes {
		o.change(now, c)
	}
	if len(changes) > 0 {
		// Elements are never shortened one by one.
		o.gate.Refresh()
	}
	more, err := o.engine.SetRules(now, cfg.Rules())
	for _, c := range more {
		o.change(now, c)
	}
	return err
}

// fixed lists the keys that differ and cannot change while the daemon runs.
func fixed(a, b *config.Config) (keys []string) {
	for _, k := range []struct {
		key  string
		same bool
	}{
		{"watch.pop3, watch.imap", reflect.DeepEqual(a.Services, b.Services)},
		{"watch.tap", a.Tap == b.Tap},
		{"gate.mode to or from gateway", a.Inside() == b.Inside()},
		{"watch.tls", a.TLS == b.TLS},
		{"watch.owners", reflect.DeepEqual(a.Owners, b.Owners)},
		{"watch.trusted_netns", reflect.DeepEqual(a.TrustedNetns, b.TrustedNetns)},
		{"watch.trusted_proxies", reflect.DeepEqual(a.TrustedProxies, b.TrustedProxies)},
		{"watch.interfaces", reflect.DeepEqual(a.Interfaces, b.Interfaces)},
		{"grant.ipv6_prefix", a.IPv6Prefix == b.IPv6Prefix},
		{"files.relayhosts", a.Relayhosts == b.Relayhosts},
		{"files.dialect", a.Dialect == b.Dialect},
		{"files.users", a.UsersFile == b.UsersFile},
		{"state.path", a.StatePath == b.StatePath},
		{"control.socket", a.Socket == b.Socket},
		{"metrics.listen", a.Metrics == b.Metrics},
	} {
		if !k.same {
			keys = append(keys, k.key)
		}
	}
	return keys
}
