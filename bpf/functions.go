package bpf

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sync/errgroup"
)

// Functions names the functions that probes are for. Peeking is not reading,
// and gnutls_record_send_file calls gnutls_record_send.
func Functions(kind LibraryKind) []string {
	return slices.Sorted(maps.Keys((&LibraryProbes{}).programs(kind)))
}

// programs gives each function the one that knows its arguments.
func (p *LibraryProbes) programs(kind LibraryKind) map[string]*ebpf.Program {
	o := &p.objs
	switch kind {
	case OpenSSL:
		return map[string]*ebpf.Program{
			"SSL_read":             o.RelaygateRead,
			"SSL_read_ex":          o.RelaygateReadEx,
			"SSL_read_early_data":  o.RelaygateEarlyReadEx,
			"SSL_write":            o.RelaygateWrite,
			"SSL_write_ex":         o.RelaygateWriteEx,
			"SSL_write_ex2":        o.RelaygateWriteEx2, // since 3.3
			"SSL_write_early_data": o.RelaygateWriteEx,
			"SSL_sendfile":         o.RelaygateWriteUnseen,
		}
	case GnuTLS:
		return map[string]*ebpf.Program{
			"gnutls_record_recv":            o.RelaygateRead,
			"gnutls_record_recv_seq":        o.RelaygateRead,
			"gnutls_record_recv_packet":     o.RelaygateReadUnseen,
			"gnutls_record_recv_early_data": o.RelaygateEarlyRead,
			"gnutls_record_send":            o.RelaygateWrite,
			"gnutls_record_send2":           o.RelaygateWrite,
			"gnutls_record_send_range":      o.RelaygateWrite,
			"gnutls_record_uncork":          o.RelaygateFlush,
		}
	}
	return nil
}

// attach attaches the returns before the entries: a call is followed only from
// its entry on.
func (p *LibraryProbes) attach(lib Library) error {
	programs := p.programs(lib.Kind)
	entries := make(map[*ebpf.Program][]uint64)
	var returns []uint64
	for name, program := range programs {
		if offset, ok := lib.Symbols[name]; ok {
			entries[program] = append(entries[program], offset)
			returns = append(returns, offset)
		}
	}
	if entries[p.objs.RelaygateRead] == nil || entries[p.objs.RelaygateWrite] == nil {
		return ErrNoFunctions
	}
	file, err := link.OpenExecutable(lib.Path)
	if err != nil {
		return err
	}
	if p.returns, err = p.probe(file, p.objs.RelaygateReturn, true, returns); err != nil {
		return fmt.Errorf("attach to the returns: %w", err)
	}
	for program, offsets := range entries {
		links, err := p.probe(file, program, false, offsets)
		p.entries = append(p.entries, links...)
		if err != nil {
			return fmt.Errorf("attach to the entries: %w", err)
		}
	}
	return nil
}

// probe attaches a program to functions, by their offset in the file. On an
// error it returns what is attached already.
func (p *LibraryProbes) probe(file *link.Executable, program *ebpf.Program, returns bool, offsets []uint64) ([]link.Link, error) {
	if p.multi {
		attach := file.UprobeMulti
		if returns {
			attach = file.UretprobeMulti
		}
		l, err := attach(nil, program, &link.UprobeMultiOptions{Addresses: offsets})
		if err != nil {
			return nil, err
		}
		return []link.Link{l}, nil
	}
	attach := file.Uprobe
	if returns {
		attach = file.Uretprobe
	}
	var links []link.Link
	for _, offset := range offsets {
		l, err := attach("", program, &link.UprobeOptions{Address: offset})
		if err != nil {
			return links, err
		}
		links = append(links, l)
	}
	return links, nil
}

// closeLinks closes all at once: the kernel waits a tenth of a second for each.
func closeLinks(links []link.Link) error {
	var all errgroup.Group
	for _, l := range links {
		all.Go(l.Close)
	}
	return all.Wait()
}
