package relayhosts

import (
	"bufio"
	"bytes"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"strings"
	"time"

	"relaygate/authz"
)

// Bounds on what is kept of lines that are not ours.
const (
	foreignLimit = 100 // lines
	lineLimit    = 200 // bytes of each
)

// Foreign is what a file held that is not ours.
type Foreign struct {
	// Path is the file, Backup its copy if one was made.
	Path, Backup string
	// Lines are the first of Count lines that are not ours (raw text).
	Lines []string
	Count int
}

// compare notes the lines of old that none of ours has.
func (f *Foreign) compare(old []byte, ours ...[]byte) {
	known := make(map[string]bool)
	for _, text := range ours {
		for line := range bytes.Lines(text) {
			known[string(bytes.TrimSpace(line))] = true
		}
	}
	for line := range foreignLines(old) {
		if known[line] {
			continue
		}
		if f.Count++; len(f.Lines) < foreignLimit {
			f.Lines = append(f.Lines, line[:min(len(line), lineLimit)])
		}
	}
}

// foreignLines yields the lines of a file, trimmed, without the empty ones.
func foreignLines(data []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		lines := bufio.NewScanner(bytes.NewReader(data))
		lines.Buffer(nil, sizeLimit+1)
		for lines.Scan() {
			if line := strings.TrimSpace(lines.Text()); line != "" && !yield(line) {
				return
			}
		}
	}
}

var brackets = strings.NewReplacer("[", "", "]", "")

// Subject is the address or prefix that a line of either file is about, in whatever
// dialect: in quotation marks or brackets, or with users or a result behind it. It
// reports false where there is none.
func Subject(line string) (netip.Prefix, bool) {
	word := strings.TrimSpace(line)
	if rest, quoted := strings.CutPrefix(word, `"`); quoted {
		word, _, _ = strings.Cut(rest, `"`)
	} else if i := strings.IndexAny(word, " \t,;=#"); i >= 0 {
		word = word[:i]
	}
	word = brackets.Replace(word)
	user, _, _ := strings.Cut(word, ":") // 192.0.2.1:alice
	for _, text := range []string{word, strings.TrimSuffix(word, ":"), user} {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p, err := authz.NormalPrefix(p.Masked()); err == nil {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Line is a line of a file.
type Line struct {
	// Path is where it stands, Text the line, cut (raw text).
	Path, Text string
	Prefix     netip.Prefix
	// Time is when the file was written.
	Time time.Time
}

// Now finds the line about an address in the file at path, nil if there is none.
func Now(path string, a netip.Addr) (*Line, error) { return find(path, "", a) }

// Before finds the line about an address that the file at path held before the first
// start, nil if there was none.
func Before(path string, a netip.Addr) (*Line, error) { return find(path, BackupSuffix, a) }

func find(path, suffix string, a netip.Addr) (*Line, error) {
	target, data, err := look(path, suffix)
	if err != nil {
		return nil, fmt.Errorf("look into %s: %w", target, err)
	}
	for line := range foreignLines(data) {
		p, ok := Subject(line)
		if !ok || !p.Contains(a) {
			continue
		}
		info, err := os.Stat(target)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", target, err)
		}
		return &Line{Path: target, Text: line[:min(len(line), lineLimit)], Prefix: p, Time: info.ModTime()}, nil
	}
	return nil, nil
}

// Named are the prefixes that the file at path is about, in its order; none where there
// is no file.
func Named(path string) (list []netip.Prefix, err error) {
	target, data, err := look(path, "")
	if err != nil {
		return nil, fmt.Errorf("look into %s: %w", target, err)
	}
	for line := range foreignLines(data) {
		if p, ok := Subject(line); ok {
			list = append(list, p)
		}
	}
	return list, nil
}

// look reads the file at path, which may be a link, with a suffix to its name.
func look(path, suffix string) (target string, data []byte, err error) {
	if target, err = resolve(path); err != nil {
		return path + suffix, nil, err
	}
	target += suffix
	data, err = readExisting(target, sizeLimit)
	return target, data, err
}
