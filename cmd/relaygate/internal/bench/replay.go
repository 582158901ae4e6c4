package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"relaygate/cmd/relaygate/internal/bench/traffic"
)

// Config says what to run.
type Config struct {
	// Full takes captures of full size, and the slow peers.
	Full bool
	// Relaygate, Baseline and Self, which is make bench, are programs.
	Relaygate, Baseline, Self string
	// Dir is for captures.
	Dir string
	// Log tells what is going on.
	Log io.Writer
}

// Section is a part of the table.
type Section struct {
	Name string
	Rows func(context.Context, *Config) ([]Row, error)
}

// Sections is the whole table, in order.
func Sections() []Section {
	return []Section{
		{"replay", replay},
		{"growth", growth},
		{"gate", gate},
	}
}

// Run measures all sections. What was measured before an error is returned.
func Run(ctx context.Context, c *Config, sections []Section) (rows []Row, err error) {
	for _, s := range sections {
		fmt.Fprintf(c.Log, "%s\n", s.Name)
		part, err := s.Rows(ctx, c)
		for i := range part {
			part[i].Section = s.Name
		}
		rows = append(rows, part...)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return rows, nil
}

// load is a capture and what the replay of it should reach.
type load struct {
	profile                       func(sessions int) traffic.Profile
	quick, full                   int // sessions
	cpu, wall, analyser, overWalk float64
}

func loads() []load {
	return []load{
		{traffic.Logins, 40000, 200000, 25, 8, 200, 3.5},
		{traffic.Downloads, 1000, 5000, 12, 8, 200, 1.3},
		{traffic.Mixed, 1800, 9000, 12, 8, 100, 1.3},
	}
}

// maxResident is the goal for memory, in MB.
const maxResident = 24

// replay compares the replay of a capture with peers and a floor.
func replay(ctx context.Context, c *Config) ([]Row, error) {
	var rows []Row
	for _, l := range loads() {
		sessions := l.quick
		if c.Full {
			sessions = l.full
		}
		part, err := c.replayLoad(ctx, l, l.profile(sessions))
		if rows = append(rows, part...); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

func (c *Config) replayLoad(ctx context.Context, l load, p traffic.Profile) ([]Row, error) {
	file, truth, err := c.capture(ctx, p)
	if err != nil {
		return nil, err
	}
	defer os.Remove(file) //nolint:errcheck // its folder is removed too
	wrong, err := c.judge(ctx, file, truth)
	if err != nil {
		return nil, err
	}
	replay := []string{c.Relaygate, "replay", "--json", file}
	const program, peer, rounds = 0, 1, 5
	runs, err := inTurn(ctx, rounds, replay, []string{c.Baseline, file})
	if err != nil {
		return nil, err
	}
	// Both take a fraction of a second: of five turns the ratio was anything from 0.9 to
	// 1.6 on the same capture.
	const floor, floorRounds = 1, 25
	floorRuns, err := inTurn(ctx, floorRounds, replay, []string{c.Self, "-walk", file})
	if err != nil {
		return nil, err
	}
	cpu := runs.typical(program, cpuOf)
	rows := []Row{
		AtMost(p.Name+": clients with a wrong count of logins", 0, float64(wrong), "", fmt.Sprintf("%d logins", truth.Succeeded)),
		AtLeast(p.Name+": obvious program / replay, CPU", l.cpu, runs.ratio(peer, program, cpuOf), "×", ""),
		AtLeast(p.Name+": obvious program / replay, wall time", l.wall, runs.ratio(peer, program, wallOf), "×", ""),
		AtMost(p.Name+": replay / read() walk, CPU", l.overWalk, floorRuns.ratio(program, floor, cpuOf), "×", ""),
		AtMost(p.Name+": resident", maxResident, float64(runs.resident(program))/(1<<20), "MB", ""),
		Told(p.Name+": CPU", cpu.Seconds()*1e3, "ms", fmt.Sprintf("%d MB, %d packets", truth.Bytes>>20, truth.Packets)),
		Told(p.Name+": CPU per packet", float64(cpu.Nanoseconds())/float64(truth.Packets), "ns", ""),
		Told(p.Name+": throughput", float64(truth.Bytes)/1e9/cpu.Seconds(), "GB/CPU s", ""),
	}
	if !c.Full {
		return rows, nil
	}
	analyser, err := analyse(ctx, file)
	if errors.Is(err, exec.ErrNotFound) {
		return rows, nil
	}
	if err != nil {
		return rows, err
	}
	return append(rows, AtLeast(p.Name+": tshark / replay, CPU", l.analyser, float64(analyser.cpu)/float64(cpu), "×", "one run")), nil
}

// capture writes the capture of a profile. It is then in the page cache.
func (c *Config) capture(ctx context.Context, p traffic.Profile) (file string, truth traffic.Truth, err error) {
	file = filepath.Join(c.Dir, fmt.Sprintf("%s-%d.pcap", p.Name, p.Sessions))
	profile, err := json.Marshal(p)
	if err != nil {
		return "", truth, fmt.Errorf("describe capture: %w", err)
	}
	var out bytes.Buffer
	if _, err := measure(ctx, &out, c.Self, "-generate", file, string(profile)); err != nil {
		return "", truth, err
	}
	if err := json.Unmarshal(out.Bytes(), &truth); err != nil {
		return "", truth, fmt.Errorf("truth about the capture: %w", err)
	}
	fmt.Fprintf(c.Log, "  %s: %d MB\n", p.Name, truth.Bytes>>20)
	return file, truth, nil
}

// judge counts the clients whose logins the replay does not tell as they were,
// and the other results that are not as many as they should be.
func (c *Config) judge(ctx context.Context, file string, truth traffic.Truth) (wrong int, err error) {
	var out bytes.Buffer
	if _, err := measure(ctx, &out, c.Relaygate, "replay", "--json", file); err != nil {
		return 0, err
	}
	logins, results := make(map[netip.Addr]int), make(map[string]int)
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		var v struct {
			Client netip.Addr
			Result string
		}
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return 0, fmt.Errorf("a line of replay: %w", err)
		}
		if results[v.Result]++; v.Result == "success" {
			logins[v.Client]++
		}
	}
	for client, n := range truth.Logins {
		if logins[client] != n {
			wrong++
		}
	}
	for result, n := range map[string]int{"success": truth.Succeeded, "failure": truth.Failed, "encrypted": truth.Encrypted, "tainted": 0} {
		if results[result] != n {
			wrong++
		}
	}
	return wrong, nil
}

// analyse runs tshark over the lines of both protocols, as one would to find
// logins.
func analyse(ctx context.Context, file string) (sample, error) {
	program, err := exec.LookPath("tshark")
	if err != nil {
		return sample{}, fmt.Errorf("find tshark: %w", err)
	}
	return measure(ctx, nil, program, "-r", file, "-Y", "pop||imap", "-T", "fields",
		"-e", "ip.src", "-e", "ipv6.src", "-e", "tcp.stream", "-e", "pop.request.command", "-e", "pop.response.indicator",
		"-e", "imap.request", "-e", "imap.response")
}
