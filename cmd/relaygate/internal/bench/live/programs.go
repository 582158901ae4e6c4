package live

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// objects are the BPF programs and maps that a process holds, by name.
type objects struct {
	programs map[string]*ebpf.Program
	maps     map[string]*ebpf.Map
}

// objectsOf opens what a process holds (proc_pid_fdinfo(5)).
func objectsOf(pid int) (o objects, err error) {
	o = objects{map[string]*ebpf.Program{}, map[string]*ebpf.Map{}}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return o, fmt.Errorf("list descriptors: %w", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return o, errors.Join(err, o.close())
		}
		if err := o.add(fields(b)); err != nil {
			return o, errors.Join(err, o.close())
		}
	}
	return o, nil
}

func fields(b []byte) map[string]string {
	f := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		f[name] = strings.TrimSpace(value)
	}
	return f
}

func (o *objects) add(f map[string]string) error {
	if _, is := f["link_id"]; is { // its program has a descriptor too
		return nil
	}
	if id, err := strconv.ParseUint(f["prog_id"], 10, 32); err == nil {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if err != nil {
			return fmt.Errorf("open BPF program %d: %w", id, err)
		}
		info, err := p.Info()
		if err != nil || o.programs[info.Name] != nil {
			return errors.Join(err, p.Close())
		}
		o.programs[info.Name] = p
	}
	if id, err := strconv.ParseUint(f["map_id"], 10, 32); err == nil {
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			return fmt.Errorf("open BPF map %d: %w", id, err)
		}
		info, err := m.Info()
		if err != nil || o.maps[info.Name] != nil {
			return errors.Join(err, m.Close())
		}
		o.maps[info.Name] = m
	}
	return nil
}

func (o *objects) close() error {
	var errs []error
	for _, p := range o.programs {
		errs = append(errs, p.Close())
	}
	for _, m := range o.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// runs is how often a program ran and how long, by the kernel's own measure.
type runs struct {
	count uint64
	took  time.Duration
}

func runsOf(p *ebpf.Program) (runs, error) {
	s, err := p.Stats()
	if err != nil {
		return runs{}, fmt.Errorf("ask how often a BPF program ran: %w", err)
	}
	return runs{s.RunCount, s.Runtime}, nil
}

func (r runs) since(before runs) runs { return runs{r.count - before.count, r.took - before.took} }

// each is the time of one run, in ns.
func (r runs) each() float64 { return float64(r.took) / float64(max(r.count, 1)) }

// memberOffset finds a member of the struct that a map's values are, in bytes.
func memberOffset(m *ebpf.Map, name string) (int, error) {
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("ask about a BPF map: %w", err)
	}
	id, ok := info.BTFID()
	if !ok {
		return 0, fmt.Errorf("map %s has no types", info.Name)
	}
	handle, err := btf.NewHandleFromID(id)
	if err != nil {
		return 0, fmt.Errorf("open the types of map %s: %w", info.Name, err)
	}
	defer handle.Close() //nolint:errcheck // it was only read
	spec, err := handle.Spec(nil)
	if err != nil {
		return 0, fmt.Errorf("read the types of map %s: %w", info.Name, err)
	}
	var values *btf.Struct
	if err := spec.TypeByName(info.Name, &values); err != nil {
		return 0, fmt.Errorf("find struct %s: %w", info.Name, err)
	}
	for _, member := range values.Members {
		if member.Name == name {
			return int(member.Offset.Bytes()), nil
		}
	}
	return 0, fmt.Errorf("struct %s has no %s", info.Name, name)
}

// produced is how many bytes have ever gone into a ring buffer: the position of
// its producers (Documentation/bpf/ringbuf.rst).
func produced(ring *ebpf.Map) (uint64, error) {
	page := os.Getpagesize()
	mem, err := unix.Mmap(ring.FD(), int64(page), page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("map the producers' page of a ring: %w", err)
	}
	at := nativeUint64(mem)
	return at, unix.Munmap(mem)
}
