package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/lockfile"
	"relaygate/cmd/relaygate/internal/state"
	"relaygate/nft"
)

// leave does what the configuration wants at the end. All tasks have ended.
func (d *daemon) leave() error {
	t := d.owner.grants()
	words, err := d.gate.Leave(t, d.config.Load().Gate.OnExit, time.Now())
	d.log.Info(words, "grants", t.Len())
	return errors.Join(err, d.files.remain(t))
}

// beginning notes that a start goes on, until it is over. One that left its note was
// killed, for want of memory say, and the next may be too: then the files are empty until
// a start has come to its end, as lines that nobody takes out let in for ever. So they are
// where it cannot be noted.
func (d *daemon) beginning() error {
	path := d.opts.Config.StatePath + startingSuffix
	_, err := os.Lstat(path)
	killed := err == nil
	if killed {
		d.log.Error("the last start was killed")
	}
	note, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err == nil {
		err = note.Close()
	}
	if d.starting = err == nil; !d.starting {
		d.log.Error("that a start goes on cannot be noted", "error", err)
	}
	if killed || !d.starting {
		return d.forsake(d.opts.Config, nil)
	}
	return nil
}

const startingSuffix = ".starting"

// begun notes that the start is over, well or not.
func (d *daemon) begun() error {
	if !d.starting {
		return nil
	}
	d.starting = false
	err := os.Remove(d.opts.Config.StatePath + startingSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("note that the start is over: %w", err)
	}
	return nil
}

// soon is a start that may hang, on the state's file system say: after readyWithin the
// files are emptied meanwhile. Where both come to their end at the same moment, the files
// are soon found changed, and written.
func (d *daemon) soon(start func() error) error {
	cfg := d.opts.Config // which the start may replace meanwhile
	late := time.AfterFunc(readyWithin, func() {
		d.log.Error("the start takes long")
		if err := d.forsake(cfg, nil); err != nil {
			d.log.Error("whom the files name may relay", "error", err)
		}
	})
	defer late.Stop()
	return start()
}

// Abandon is what becomes of a start whose configuration has mistakes: of it cfg is what
// could be read. Where that names no list of hosts, the one that the last run wrote is
// emptied. A relaygate that runs is left alone.
func Abandon(cfg *config.Config) error {
	if cfg.Relayhosts == "" {
		none := func(netip.Prefix) bool { return false }
		was, err := keeper.Peek(cfg.StatePath, time.Now(), none, func(*grant.Saved) {})
		if err == nil { // else nothing is known
			cfg = written(cfg, was.Run)
		}
	}
	if len(cfg.Files()) == 0 {
		return nil
	}
	if lockfile.Holder(cfg.StatePath+".lock") != "" {
		return nil // one runs whose socket is another
	}
	if cfg.Socket != "" {
		socket, err := control.Listen(cfg.Socket)
		if err != nil {
			return nil // it says that another runs, or there is nothing that this user may do
		}
		defer func() { _ = socket.Close() }()
	}
	d := &daemon{log: slog.New(slog.DiscardHandler)}
	return d.forsake(cfg, nil)
}

// written is a configuration with the files of the last run in the place of its own.
func written(cfg *config.Config, was keeper.Run) *config.Config {
	known := *cfg
	known.Relayhosts, known.UsersFile = was.Relayhosts, was.Users
	if was.Keep {
		known.Gate.OnExit = config.ExitKeep
	}
	return &known
}

// forsake empties the files where nothing starts: what they opened when an earlier run
// crashed would be open until somebody looks.
func (d *daemon) forsake(cfg *config.Config, why error) error {
	others := errors.Is(why, control.ErrRunning) || errors.Is(why, state.ErrLocked) || errors.Is(why, nft.ErrClaimed) ||
		errors.Is(why, fs.ErrPermission) && os.Geteuid() != 0 // who may not start it may not empty them
	if others || cfg.Gate.OnExit == config.ExitKeep {
		return nil
	}
	if err := newFiles(cfg, d.log).writer.Forsake(); err != nil {
		return fmt.Errorf("empty the files, as nothing starts: %w", err)
	}
	if len(cfg.Files()) > 0 {
		d.log.Warn("the files for mail servers that relaygate wrote are empty until a start has come to its end")
	}
	return nil
}
