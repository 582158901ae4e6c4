package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ServerProcess is a process that owns listeners of watched ports.
type ServerProcess struct {
	// PID is its id in the initial PID namespace.
	PID uint32
	// Start is when it started, in clock ticks since boot (field 22 of
	// /proc/PID/stat): the id alone can be another process's later on.
	Start uint64
}

// SetServers replaces the processes whose calls of TLS libraries count, and
// those of their descendants. Of connections that were opened before their server
// became known nothing is told: they are Lost with their first plaintext.
// From the first call on, handshakes are recorded.
func (t *Tap) SetServers(processes []ServerProcess) error {
	if err := t.watchHandshakes(); err != nil {
		return err
	}
	if err := t.followForks(); err != nil {
		return err
	}
	now, err := Monotonic()
	if err != nil {
		return err
	}
	want := make(map[uint32]tapServer, len(processes))
	for _, p := range processes {
		want[p.PID] = tapServer{Start: p.Start, Since: now}
	}
	if err := t.keepServers(want); err != nil {
		return err
	}
	for pid, server := range want {
		if err := t.objs.Servers.Put(pid, &server); err != nil {
			return fmt.Errorf("follow the server process %d: %w", pid, err)
		}
	}
	return t.sweepCalls()
}

// keepServers takes out of want what is in the kernel already, and removes
// there what is not wanted.
func (t *Tap) keepServers(want map[uint32]tapServer) error {
	var pid uint32
	var server tapServer
	var gone []uint32
	all := t.objs.Servers.Iterate()
	for all.Next(&pid, &server) {
		if wanted, ok := want[pid]; ok && wanted.Start == server.Start {
			delete(want, pid)
		} else {
			gone = append(gone, pid)
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("list the servers' processes: %w", err)
	}
	for _, pid := range gone {
		if err := t.objs.Servers.Delete(pid); err != nil {
			return fmt.Errorf("forget the server process %d: %w", pid, err)
		}
	}
	return nil
}

// sweepCalls removes the calls of threads that died within one, which no
// return will remove.
func (t *Tap) sweepCalls() error {
	var thread uint64
	var calls tapCalls
	var dead []uint64
	all := t.objs.Calls.Iterate()
	for all.Next(&thread, &calls) {
		// The upper half is the thread group. Signal 0 sends none.
		if err := unix.Tgkill(int(thread>>32), int(uint32(thread)), 0); errors.Is(err, unix.ESRCH) {
			dead = append(dead, thread)
		}
	}
	// Calls come and go: an iteration that had to give up is tried again
	// with the next sweep.
	if err := all.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list the calls under way: %w", err)
	}
	for _, thread := range dead {
		if err := t.objs.Calls.Delete(thread); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a dead thread's call: %w", err)
		}
	}
	return nil
}

// followForks has the kernel remember who was forked within a server's family.
// Who lost its parents before that is a stranger.
func (t *Tap) followForks() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.forks != nil {
		return nil
	}
	spec, err := loadTls()
	if err != nil {
		return fmt.Errorf("read the program that sees forks: %w", err)
	}
	var only struct {
		Fork *ebpf.Program `ebpf:"relaygate_fork"`
	}
	err = spec.LoadAndAssign(&only, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		tapMapServers:     t.objs.Servers,
		tapMapDescendants: t.objs.Descendants,
	}})
	if err != nil {
		return fmt.Errorf("load the program that sees forks: %w", err)
	}
	defer func() { _ = only.Fork.Close() }() // the link holds it
	t.forks, err = link.AttachRawTracepoint(link.RawTracepointOptions{
		Name: "sched_process_fork", Program: only.Fork,
	})
	if err != nil {
		return fmt.Errorf("follow the forks of servers: %w", err)
	}
	return nil
}

// watchHandshakes has egress look for ServerHellos.
func (t *Tap) watchHandshakes() error {
	if err := t.objs.Tls.Set(uint32(1)); err != nil {
		return fmt.Errorf("watch TLS handshakes: %w", err)
	}
	return nil
}

// SetEncrypted ends the recording of a connection's packets; what passes
// through TLS is still told. It is no error if the connection is gone, done or
// lost. The mark of a loss in this moment is overwritten; that the loss is told, or
// else ends all connections that are open, is not (lose_call in src/tell.h).
func (t *Tap) SetEncrypted(cookie uint64) error {
	var f tapFlow
	err := t.objs.Flows.Lookup(&cookie, &f)
	if err == nil && f.State == tapFlowStateREADING {
		err = t.objs.Flows.Update(&cookie, &tapFlow{State: tapFlowStateENCRYPTED, Opened: f.Opened}, ebpf.UpdateExist)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("end the recording of a connection's packets: %w", err)
	}
	return nil
}
