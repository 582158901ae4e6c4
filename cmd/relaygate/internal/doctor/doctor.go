// Package doctor looks at this host, without changing anything, and says what
// relaygate can and cannot do here: kernel features, capabilities, cgroups,
// nftables, listeners, the lock behind the gate, and the daemon itself.
package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
)

// State is how a finding is.
type State string

const (
	// OK: it is there.
	OK State = "ok"
	// Missing: it is not there.
	Missing State = "missing"
	// Unseen: this process may not look.
	Unseen State = "unseen"
	// Advice: something that a person should consider.
	Advice State = "advice"
)

// Finding is one thing that was looked at.
type Finding struct {
	Subject string `json:"subject"`
	State   State  `json:"state"`
	// Needed: this configuration cannot work without it.
	Needed bool `json:"needed"`
	// Words say what was found, Then what is lost by it or what to do.
	Words string `json:"words"`
	Then  string `json:"then,omitempty"`
}

// Bad says that something needed is missing.
func (f *Finding) Bad() bool { return f.Needed && f.State == Missing }

// Patient is what is examined.
type Patient struct {
	Config *config.Config
	// File is where Config was read, "" for the defaults.
	File string
	// Status asks the daemon.
	Status func(context.Context) (control.Status, error)
}

// Examine looks at everything.
func Examine(ctx context.Context, p Patient) []Finding {
	list := append(configuration(p), kernel(p.Config)...)
	list = append(list, capabilities(p.Config)...)
	list = append(list, interfaces(p.Config)...)
	if p.Config.Inside() { // no server of this host's is watched
		list = append(list, firewall(p.Config))
		list = append(list, forwarding(p.Config)...)
		list = append(list, offloaded(p.Config)...)
		list = append(list, around(p.Config)...)
	} else {
		list = append(list, cgroups(p.Config), firewall(p.Config))
		list = append(list, forwarded(p.Config)...)
		list = append(list, translated(p.Config)...)
		list = append(list, listeners(p.Config)...)
	}
	list = append(list, secondLock(p.Config)...)
	list = append(list, files(p.Config)...)
	list = append(list, places(p.Config)...)
	return append(list, daemon(ctx, p)...)
}

// configuration says what the host is measured by.
func configuration(p Patient) []Finding {
	f := Finding{Subject: "configuration", State: OK, Words: p.File + ": gate mode " + p.Config.Gate.Mode.String()}
	if p.File == "" {
		f.State, f.Words = Advice, "no file is there: these are the defaults, gate mode "+p.Config.Gate.Mode.String()
		f.Then = "name the one that is used with --config"
	}
	return []Finding{f}
}

// found makes a finding of a check's error.
func found(subject string, needed bool, good string, err error, then string) Finding {
	f := Finding{Subject: subject, Needed: needed, State: OK, Words: good}
	switch {
	case err == nil:
	case !errors.Is(err, unix.EPERM) && !errors.Is(err, fs.ErrPermission):
		f.State, f.Words, f.Then = Missing, err.Error(), then
	case os.Geteuid() != 0:
		f.State, f.Words, f.Then = Unseen, "cannot be seen by this user", "run doctor as root"
	default:
		f.State, f.Words = Missing, "is refused to root here (inside a container without privileges?)"
		f.Then = "run relaygate on the host, or with the capabilities that its unit names"
	}
	return f
}
