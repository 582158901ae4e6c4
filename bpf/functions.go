package bpf

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sync/errgroup"
)

// Functions names the functions that probes are for. Peeking is not reading,
// and gnutls_record_send_file calls gnutls_record_send.
func Functions(kind LibraryKind) []string {
	return slices.Sorted(maps.Keys(functionsOf(kind)))
}

// functionsOf says of each function what its arguments mean.
func functionsOf(kind LibraryKind) map[string]tlsFunction {
	switch kind {
	case OpenSSL:
		return map[string]tlsFunction{
			"SSL_read":             tlsFunctionREAD,
			"SSL_read_ex":          tlsFunctionREAD_EX,
			"SSL_read_early_data":  tlsFunctionEARLY_READ_EX,
			"SSL_write":            tlsFunctionWRITE,
			"SSL_write_ex":         tlsFunctionWRITE_EX,
			"SSL_write_ex2":        tlsFunctionWRITE_EX2, // since 3.3
			"SSL_write_early_data": tlsFunctionWRITE_EX,
			"SSL_sendfile":         tlsFunctionWRITE_UNSEEN,
		}
	case GnuTLS:
		return map[string]tlsFunction{
			"gnutls_record_recv":            tlsFunctionREAD,
			"gnutls_record_recv_seq":        tlsFunctionREAD,
			"gnutls_record_recv_packet":     tlsFunctionREAD_UNSEEN,
			"gnutls_record_recv_early_data": tlsFunctionEARLY_READ,
			"gnutls_record_send":            tlsFunctionWRITE,
			"gnutls_record_send2":           tlsFunctionWRITE,
			"gnutls_record_send_range":      tlsFunctionWRITE,
			"gnutls_record_uncork":          tlsFunctionFLUSH,
		}
	}
	return nil
}

// entries names the program that sees the entries of such functions, where each
// end has one of its own.
var entries = map[tlsFunction]string{
	tlsFunctionREAD:          tlsProgRelaygateRead,
	tlsFunctionREAD_EX:       tlsProgRelaygateReadEx,
	tlsFunctionREAD_UNSEEN:   tlsProgRelaygateReadUnseen,
	tlsFunctionEARLY_READ:    tlsProgRelaygateEarlyRead,
	tlsFunctionEARLY_READ_EX: tlsProgRelaygateEarlyReadEx,
	tlsFunctionWRITE:         tlsProgRelaygateWrite,
	tlsFunctionWRITE_EX:      tlsProgRelaygateWriteEx,
	tlsFunctionWRITE_EX2:     tlsProgRelaygateWriteEx2,
	tlsFunctionWRITE_UNSEEN:  tlsProgRelaygateWriteUnseen,
	tlsFunctionFLUSH:         tlsProgRelaygateFlush,
}

// complete says whether something of a library that reads is probed, and something
// that writes.
func complete(places map[tlsFunction][]uint64) bool {
	reads := len(places[tlsFunctionREAD]) + len(places[tlsFunctionREAD_EX])
	writes := len(places[tlsFunctionWRITE]) + len(places[tlsFunctionWRITE_EX]) + len(places[tlsFunctionWRITE_EX2])
	return reads > 0 && writes > 0
}

// attach attaches the programs to places in a library's code.
func (p *LibraryProbes) attach(path string, places map[tlsFunction][]uint64) error {
	if p.way == bySession {
		return p.attachSession(path, places)
	}
	return p.attachApart(path, places)
}

// attachSession attaches one program to both ends of the functions.
func (p *LibraryProbes) attachSession(path string, places map[tlsFunction][]uint64) error {
	var offsets, cookies []uint64
	for function, at := range places {
		for _, offset := range at {
			offsets, cookies = append(offsets, offset), append(cookies, uint64(function))
		}
	}
	l, err := linkUprobeSession(path, p.objs.Programs[tlsProgRelaygateBoth], offsets, cookies)
	if err != nil {
		return err
	}
	p.entries = append(p.entries, l)
	return nil
}

// attachApart attaches the returns before the entries: a call is followed only
// from its entry on.
func (p *LibraryProbes) attachApart(path string, places map[tlsFunction][]uint64) error {
	file, err := link.OpenExecutable(path)
	if err != nil {
		return err
	}
	all := slices.Concat(slices.Collect(maps.Values(places))...)
	if p.returns, err = p.probe(file, p.objs.Programs[tlsProgRelaygateReturn], true, all); err != nil {
		return fmt.Errorf("attach to the returns: %w", err)
	}
	for function, offsets := range places {
		links, err := p.probe(file, p.objs.Programs[entries[function]], false, offsets)
		p.entries = append(p.entries, links...)
		if err != nil {
			return fmt.Errorf("attach to the entries: %w", err)
		}
	}
	return nil
}

// probe attaches a program to functions, by their offset in the file. On an
// error it returns what is attached already.
func (p *LibraryProbes) probe(file *link.Executable, program *ebpf.Program, returns bool, offsets []uint64) ([]io.Closer, error) {
	if p.way == byMulti {
		attach := file.UprobeMulti
		if returns {
			attach = file.UretprobeMulti
		}
		l, err := attach(nil, program, &link.UprobeMultiOptions{Addresses: offsets})
		if err != nil {
			return nil, err
		}
		return []io.Closer{l}, nil
	}
	attach := file.Uprobe
	if returns {
		attach = file.Uretprobe
	}
	var links []io.Closer
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
func closeLinks(links []io.Closer) error {
	var all errgroup.Group
	for _, l := range links {
		all.Go(l.Close)
	}
	return all.Wait()
}
