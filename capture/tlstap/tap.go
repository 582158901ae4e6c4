package tlstap

import "relaygate/bpf"

// Tap is the kernel side; KernelTap makes one of the real one.
type Tap interface {
	// SetServers replaces the processes whose families are heard.
	SetServers([]bpf.ServerProcess) error
	// AttachLibrary watches the calls of a library; its path is good only
	// during the call.
	AttachLibrary(bpf.Library) (Probes, error)
}

// Probes are on one library.
type Probes interface {
	// Recognised is true once a handshake was found in a connection's object.
	Recognised() bool
	Close() error
}

// KernelTap is the Tap of the kernel's programs.
type KernelTap struct{ *bpf.Tap }

// AttachLibrary watches the calls of a library.
func (t KernelTap) AttachLibrary(l bpf.Library) (Probes, error) {
	p, err := t.Tap.AttachLibrary(l)
	if err != nil {
		return nil, err // not the nil pointer: it would be no nil Probes
	}
	return p, nil
}
