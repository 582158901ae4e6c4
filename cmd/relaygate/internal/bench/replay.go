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

	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/bench/traffic"
)

// Config says what to run, and takes what comes of it.
type Config struct {
	// Full takes captures of full size, and the slow peers.
	Full bool
	// Part is of the live section's parts those whose names have it; all if it is empty.
	Part string
	// Relaygate, Baseline and Self, which is make bench, are programs.
	Relaygate, Baseline, Self string
	// Dir is for captures.
	Dir string
	// Log tells what is going on.
	Log io.Writer

	must.Ends
	section string
	rows    []Row
}

// Tell adds rows to the table.
func (c *Config) Tell(rows ...Row) {
	for i := range rows {
		rows[i].Section = c.section
	}
	c.rows = append(c.rows, rows...)
}

// Section is a part of the table.
type Section struct {
	Name    string
	Measure func(context.Context, *Config)
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
func Run(ctx context.Context, c *Config, sections []Section) ([]Row, error) {
	for _, s := range sections {
		fmt.Fprintf(c.Log, "%s\n", s.Name)
		c.section = s.Name
		err := must.Try(func() { s.Measure(ctx, c) })
		if err := errors.Join(err, c.Failed()); err != nil {
			return c.rows, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return c.rows, nil
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
func replay(ctx context.Context, c *Config) {
	for _, l := range loads() {
		sessions := l.quick
		if c.Full {
			sessions = l.full
		}
		c.replayLoad(ctx, l, l.profile(sessions))
	}
}

func (c *Config) replayLoad(ctx context.Context, l load, p traffic.Profile) {
	file, truth := c.capture(ctx, p)
	defer c.End(func() error { return os.Remove(file) })
	wrong := c.judge(ctx, file, truth)
	replay := []string{c.Relaygate, "replay", "--json", file}
	const program, peer, rounds = 0, 1, 5
	runs := inTurn(ctx, rounds, replay, []string{c.Baseline, file})
	// Both take a fraction of a second: of five turns the ratio was anything from 0.9 to
	// 1.6 on the same capture.
	const floor, floorRounds = 1, 25
	floorRuns := inTurn(ctx, floorRounds, replay, []string{c.Self, "-walk", file})
	cpu := runs.typical(program, cpuOf)
	c.Tell(
		AtMost(p.Name+": clients with a wrong count of logins", 0, float64(wrong), "", fmt.Sprintf("%d logins", truth.Succeeded)),
		AtLeast(p.Name+": obvious program / replay, CPU", l.cpu, runs.ratio(peer, program, cpuOf), "×", ""),
		AtLeast(p.Name+": obvious program / replay, wall time", l.wall, runs.ratio(peer, program, wallOf), "×", ""),
		AtMost(p.Name+": replay / read() walk, CPU", l.overWalk, floorRuns.ratio(program, floor, cpuOf), "×", ""),
		AtMost(p.Name+": resident", maxResident, float64(runs.resident(program))/(1<<20), "MB", ""),
		Told(p.Name+": CPU", cpu.Seconds()*1e3, "ms", fmt.Sprintf("%d MB, %d packets", truth.Bytes>>20, truth.Packets)),
		Told(p.Name+": CPU per packet", float64(cpu.Nanoseconds())/float64(truth.Packets), "ns", ""),
		Told(p.Name+": throughput", float64(truth.Bytes)/1e9/cpu.Seconds(), "GB/CPU s", ""),
	)
	if tshark, err := exec.LookPath("tshark"); c.Full && err == nil {
		analyser := analyse(ctx, tshark, file)
		c.Tell(AtLeast(p.Name+": tshark / replay, CPU", l.analyser, float64(analyser.cpu)/float64(cpu), "×", "one run"))
	}
}

// capture writes the capture of a profile. It is then in the page cache.
func (c *Config) capture(ctx context.Context, p traffic.Profile) (file string, truth traffic.Truth) {
	file = filepath.Join(c.Dir, fmt.Sprintf("%s-%d.pcap", p.Name, p.Sessions))
	var out bytes.Buffer
	measure(ctx, &out, c.Self, "-generate", file, string(must.Get(json.Marshal(p))))
	must.Do(json.Unmarshal(out.Bytes(), &truth))
	fmt.Fprintf(c.Log, "  %s: %d MB\n", p.Name, truth.Bytes>>20)
	return file, truth
}

// judge counts the clients whose logins the replay does not tell as they were,
// and the other results that are not as many as they should be.
func (c *Config) judge(ctx context.Context, file string, truth traffic.Truth) (wrong int) {
	var out bytes.Buffer
	measure(ctx, &out, c.Relaygate, "replay", "--json", file)
	logins, results := make(map[netip.Addr]int), make(map[string]int)
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		var v struct {
			Client netip.Addr
			Result string
		}
		must.Do(json.Unmarshal(lines.Bytes(), &v))
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
	return wrong
}

// analyse runs tshark over the lines of both protocols, as one would to find
// logins.
func analyse(ctx context.Context, tshark, file string) sample {
	return measure(ctx, nil, tshark, "-r", file, "-Y", "pop||imap", "-T", "fields",
		"-e", "ip.src", "-e", "ipv6.src", "-e", "tcp.stream", "-e", "pop.request.command", "-e", "pop.response.indicator",
		"-e", "imap.request", "-e", "imap.response")
}
