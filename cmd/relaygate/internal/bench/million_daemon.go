package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/state"
)

// measureDaemon starts the daemon with a million grants in its state file, and
// logs in.
func (m *Million) measureDaemon(ctx context.Context, program string) (err error) {
	dir, err := os.MkdirTemp("", "relaygate-million")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := saveMillion(filepath.Join(dir, "state.db")); err != nil {
		return err
	}
	network, err := lab.NewNetwork()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	mail, err := lab.StartMailServer(network.Server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mail.Close()) }()
	if program, err = filepath.Abs(program); err != nil {
		return err
	}
	start := time.Now()
	d, err := lab.StartDaemon(ctx, network.Server, lab.Options{Exe: program, Dir: dir, Lifetime: time.Hour, Ready: 5 * time.Minute})
	if err != nil {
		return err
	}
	m.Ready = time.Since(start)
	return errors.Join(m.measureLogin(ctx, network, d), d.Stop())
}

func (m *Million) measureLogin(ctx context.Context, network *lab.Network, d *lab.Daemon) error {
	client := control.NewClient(d.Socket)
	ask := func(good func(*control.Status) bool) (s control.Status, err error) {
		err = lab.Poll(ctx, time.Minute, 20*time.Millisecond, func() (err error) {
			if s, err = client.Status(ctx); err == nil && !good(&s) {
				err = fmt.Errorf("%d grants, %d added", s.Grants, s.Gate.Adds)
			}
			return err
		})
		return s, err
	}
	if _, err := ask(func(s *control.Status) bool { return s.Grants == million && s.Files[0].Writes > 0 }); err != nil {
		return err
	}
	var delays []time.Duration
	for i := range logins {
		if _, ok, err := network.Client4.Login(ctx, lab.POP3Login(lab.Server4, lab.Password)); err != nil || !ok {
			return fmt.Errorf("log in: %v, %w", ok, err)
		}
		s, err := ask(func(s *control.Status) bool { return s.Gate.Adds == uint64(i+1) })
		if err != nil {
			return err
		}
		delays = append(delays, s.Gate.LastDelay.Duration)
		o := control.Order{Verb: control.VerbRevoke, Prefix: netip.PrefixFrom(lab.Client4, 32)}
		if _, err := client.Order(ctx, o); err != nil {
			return err
		}
	}
	slices.Sort(delays)
	m.Login, m.LoginMost = delays[logins/2], delays[logins-1]
	var err error
	pid := strconv.Itoa(d.PID())
	if m.Own, err = status(pid, "RssAnon"); err != nil {
		return err
	}
	m.Mapped, err = status(pid, "RssFile")
	return err
}

// saveMillion writes a state file as a daemon with these grants leaves it.
func saveMillion(path string) error {
	now := time.Now()
	s, err := state.Open(path, now)
	if err != nil {
		return err
	}
	addrs := make([]string, million)
	for i := range addrs {
		addrs[i] = member(i).String()
	}
	slices.Sort(addrs) // as pages are filled best
	for i, text := range addrs {
		a := netip.MustParseAddr(text)
		g := grant.Grant{Prefix: netip.PrefixFrom(a, 32), Since: now, Expires: now.Add(time.Hour), Source: grant.Login, Logins: 1}
		saved := grant.Save(now, grant.Boot{}, g)
		s.Put("grants", g.Prefix.String(), state.AppendGrant(nil, &saved))
		if i%(1<<15) == 0 {
			if err := s.Flush(); err != nil {
				return errors.Join(err, s.Close())
			}
		}
	}
	return s.Close()
}
