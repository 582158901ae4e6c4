package bench

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/state"
)

// measureDaemon starts the daemon with a million grants in its state file, and
// logs in.
func (m *Million) measureDaemon(ctx context.Context, program string) {
	dir := must.Get(os.MkdirTemp("", "relaygate-million"))
	defer m.ends.End(func() error { return os.RemoveAll(dir) })
	saveMillion(filepath.Join(dir, "state.db"))
	network := must.Get(lab.NewNetwork())
	defer m.ends.End(network.Close)
	mail := must.Get(lab.StartMailServer(network.Server))
	defer m.ends.End(mail.Close)
	start := time.Now()
	d := must.Get(lab.StartDaemon(ctx, network.Server, lab.Options{
		Exe: must.Get(filepath.Abs(program)), Dir: dir, Lifetime: time.Hour, Ready: 5 * time.Minute,
	}))
	defer m.ends.End(d.Stop)
	m.Ready = time.Since(start)
	m.measureLogin(ctx, network, d)
}

func (m *Million) measureLogin(ctx context.Context, network *lab.Network, d *lab.Daemon) {
	client := control.NewClient(d.Socket)
	ask := func(good func(*control.Status) bool) (s control.Status) {
		must.Do(lab.Poll(ctx, time.Minute, 20*time.Millisecond, func() (err error) {
			if s, err = client.Status(ctx); err == nil && !good(&s) {
				err = fmt.Errorf("%d grants, %d added", s.Grants, s.Gate.Adds)
			}
			return err
		}))
		return s
	}
	ask(func(s *control.Status) bool { return s.Grants == million && s.Files[0].Writes > 0 })
	var delays []time.Duration
	for i := range logins {
		if _, ok, err := network.Client4.Login(ctx, lab.POP3Login(lab.Server4, lab.Password)); err != nil || !ok {
			must.Do(fmt.Errorf("log in: %v, %w", ok, err))
		}
		s := ask(func(s *control.Status) bool { return s.Gate.Adds == uint64(i+1) })
		delays = append(delays, s.Gate.LastDelay.Duration)
		must.Get(client.Order(ctx, control.Order{Verb: control.VerbRevoke, Prefix: netip.PrefixFrom(lab.Client4, 32)}))
	}
	slices.Sort(delays)
	m.Login, m.LoginMost = delays[logins/2], delays[logins-1]
	pid := strconv.Itoa(d.PID())
	m.Own, m.Mapped = status(pid, "RssAnon"), status(pid, "RssFile")
}

// saveMillion writes a state file as a daemon with these grants leaves it.
func saveMillion(path string) {
	now := time.Now()
	s := must.Get(state.Open(path, now))
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
			must.Do(s.Flush())
		}
	}
	must.Do(s.Close())
}
