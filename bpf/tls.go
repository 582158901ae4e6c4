package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
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
// those of their descendants. From its first call on, handshakes are recorded.
func (t *Tap) SetServers(processes []ServerProcess) error {
	if err := t.watchHandshakes(); err != nil {
		return err
	}
	want := make(map[uint32]uint64, len(processes))
	for _, p := range processes {
		want[p.PID] = p.Start
	}
	var pid uint32
	var start uint64
	var gone []uint32
	all := t.objs.Servers.Iterate()
	for all.Next(&pid, &start) {
		if _, ok := want[pid]; !ok {
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
	for pid, start := range want {
		if err := t.objs.Servers.Put(pid, start); err != nil {
			return fmt.Errorf("follow the server process %d: %w", pid, err)
		}
	}
	return t.sweepProbes()
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
// lost.
func (t *Tap) SetEncrypted(cookie uint64) error {
	var f tapFlow
	err := t.objs.Flows.Lookup(&cookie, &f)
	if err == nil && f.State == tapFlowStateREADING {
		err = t.objs.Flows.Update(&cookie, &tapFlow{State: tapFlowStateENCRYPTED}, ebpf.UpdateExist)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("end the recording of a connection's packets: %w", err)
	}
	return nil
}
