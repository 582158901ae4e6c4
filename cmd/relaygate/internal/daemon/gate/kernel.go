package gate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"relaygate/cmd/relaygate/internal/config"
	"relaygate/nft"
)

// table is the gate in the kernel, as *nft.Gate is.
type table interface {
	Claim() error
	Read() ([]nft.Element, error)
	Add(...nft.Element) error
	Renew(...nft.Element) error
	Remove(netip.Addr) error
	Rebuild([]nft.Element) error
	Load(iter.Seq[nft.Element], func() error) error
	Repair(iter.Seq[nft.Element], func() error) error
	Sync([]nft.Element) (added, renewed int, removed []netip.Prefix, err error)
	Reconfigure(nft.Config, []nft.Element) error
	CloseAll(...nft.Element) error
	Check() error
	Bites() (rate, concurrent uint64, err error)
	Bitten() ([]nft.Bitten, error)
	Lacks() error
	Watch() (*nft.Watch, error)
	Close() error
}

// ConfigOf is what the configuration wants of the gate.
func ConfigOf(cfg *config.Config, static []netip.Prefix) nft.Config {
	g := &cfg.Gate
	return nft.Config{
		Mode: g.Mode, Ports: g.Ports, Static: static, IPv6Prefix: cfg.IPv6Prefix,
		RelayPort: g.RelayPort, Mark: g.Mark, Sets: g.Sets, Servers: g.Servers, Own: g.Own,
		Brakes: nft.Brakes{NewPerMinute: g.MaxNewPerMinute, Concurrent: g.MaxConcurrent},
	}
}

// openTable connects to the kernel. Mode observe, which opens and closes
// nothing, does without nftables: missing says why then.
func openTable(cfg nft.Config) (t table, missing, err error) {
	g, err := nft.Open(cfg)
	switch {
	case err == nil:
		return g, nil, nil
	case cfg.Mode == nft.Observe:
		return noTable{}, err, nil
	}
	return nil, nil, fmt.Errorf("gate mode %s needs nftables: %w", cfg.Mode, err)
}

// noTable is the gate where there is no nftables.
type noTable struct{}

func (noTable) Claim() error                                         { return nil }
func (noTable) Read() ([]nft.Element, error)                         { return nil, nil }
func (noTable) Add(...nft.Element) error                             { return nil }
func (noTable) Renew(...nft.Element) error                           { return nil }
func (noTable) Remove(netip.Addr) error                              { return nil }
func (noTable) Rebuild([]nft.Element) error                          { return nil }
func (noTable) Load(iter.Seq[nft.Element], func() error) error       { return nil }
func (noTable) Repair(iter.Seq[nft.Element], func() error) error     { return nil }
func (noTable) Sync([]nft.Element) (int, int, []netip.Prefix, error) { return 0, 0, nil, nil }
func (noTable) CloseAll(...nft.Element) error                        { return nil }
func (noTable) Check() error                                         { return nil }
func (noTable) Bites() (uint64, uint64, error)                       { return 0, 0, nil }
func (noTable) Bitten() ([]nft.Bitten, error)                        { return nil, nil }
func (noTable) Lacks() error                                         { return nil }
func (noTable) Watch() (*nft.Watch, error)                           { return nil, nil }
func (noTable) Close() error                                         { return nil }

func (noTable) Reconfigure(cfg nft.Config, _ []nft.Element) error {
	if cfg.Mode == nft.Observe {
		return nil
	}
	return errors.New("nftables cannot be used: see doctor, and start relaygate again")
}

// Watch reads one nft.Watch after the other: a change of the mode makes another.
func (g *Gate) Watch(ctx context.Context) error {
	for {
		w := g.watch.Load()
		if w == nil { // no nftables
			<-ctx.Done()
			return nil
		}
		err := w.Run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if g.watch.Load() != w {
			continue
		}
		// Meanwhile it is looked at the gate every checkEvery all the same.
		g.log.Error("the watch of the gate failed: trying again", "error", err)
		select {
		case <-time.After(watchPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// watchPause is how long what could not be read, for want of memory say, is let be.
const watchPause = 100 * time.Millisecond
