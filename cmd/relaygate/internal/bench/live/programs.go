package live

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/bench/must"
)

// objects are the BPF programs and maps that a process holds, by name.
type objects struct {
	programs map[string]*ebpf.Program
	maps     map[string]*ebpf.Map
}

// withObjects runs do with what a process holds (proc_pid_fdinfo(5)).
func (m *measure) withObjects(pid int, do func(*objects)) {
	o := &objects{map[string]*ebpf.Program{}, map[string]*ebpf.Map{}}
	defer m.End(o.close)
	for _, file := range must.Get(filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))) {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		must.Do(err)
		o.add(fields(b))
	}
	do(o)
}

func fields(b []byte) map[string]string {
	f := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		f[name] = strings.TrimSpace(value)
	}
	return f
}

func (o *objects) add(f map[string]string) {
	if _, is := f["link_id"]; is { // its program has a descriptor too
		return
	}
	if id, err := strconv.ParseUint(f["prog_id"], 10, 32); err == nil {
		p := must.Get(ebpf.NewProgramFromID(ebpf.ProgramID(id)))
		if name := must.Get(p.Info()).Name; o.programs[name] == nil {
			o.programs[name] = p
		} else {
			must.Do(p.Close())
		}
	}
	if id, err := strconv.ParseUint(f["map_id"], 10, 32); err == nil {
		m := must.Get(ebpf.NewMapFromID(ebpf.MapID(id)))
		if name := must.Get(m.Info()).Name; o.maps[name] == nil {
			o.maps[name] = m
		} else {
			must.Do(m.Close())
		}
	}
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

func runsOf(p *ebpf.Program) runs {
	s := must.Get(p.Stats())
	return runs{s.RunCount, s.Runtime}
}

func (r runs) since(before runs) runs { return runs{r.count - before.count, r.took - before.took} }

// each is the time of one run, in ns.
func (r runs) each() float64 { return float64(r.took) / float64(max(r.count, 1)) }

// memberOffset finds a member of the struct that a map's values are, in bytes.
func memberOffset(m *ebpf.Map, name string) int {
	info := must.Get(m.Info())
	id, ok := info.BTFID()
	if !ok {
		must.Do(fmt.Errorf("map %s has no types", info.Name))
	}
	handle := must.Get(btf.NewHandleFromID(id))
	defer handle.Close() //nolint:errcheck // it was only read
	var values *btf.Struct
	must.Do(must.Get(handle.Spec(nil)).TypeByName(info.Name, &values))
	at := slices.IndexFunc(values.Members, func(member btf.Member) bool { return member.Name == name })
	if at < 0 {
		must.Do(fmt.Errorf("struct %s has no %s", info.Name, name))
	}
	return int(values.Members[at].Offset.Bytes())
}

// produced is how many bytes have ever gone into a ring buffer: the position of
// its producers (Documentation/bpf/ringbuf.rst).
func produced(ring *ebpf.Map) uint64 {
	page := os.Getpagesize()
	mem := must.Get(unix.Mmap(ring.FD(), int64(page), page, unix.PROT_READ, unix.MAP_SHARED))
	defer unix.Munmap(mem) //nolint:errcheck // it was only read
	return nativeUint64(mem)
}
