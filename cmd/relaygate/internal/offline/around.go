package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/authz/relayhosts"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/gate"
	"relaygate/cmd/relaygate/internal/story"
	"relaygate/nft"
)

// kernel tells what the gate does that nobody keeps; to an address, if it is one.
func (d *Daemon) kernel(about *control.Offline, a netip.Addr, now time.Time) {
	cfg := d.Config
	s, err := nft.Look(gate.ConfigOf(cfg, nil), a)
	switch {
	case (errors.Is(err, unix.EPERM) || errors.Is(err, fs.ErrPermission)) && os.Geteuid() != 0:
		about.Gate = "What the kernel lets in is for root to see."
		return
	case err != nil:
		about.Gate = fmt.Sprintf("What the kernel lets in cannot be told: %v.", err)
		return
	}
	about.Gate = d.tableWords(s)
	if !a.IsValid() {
		return
	}
	in := s.Member || s.Static
	about.InSet = &in
	switch {
	case s.Static, s.Member && s.Left == 0:
		about.Gate += fmt.Sprintf(" %s is in its sets for good.", a)
	case s.Member:
		about.Until = &control.Time{Time: now.Add(s.Left)}
		about.Gate += fmt.Sprintf(" %s is in its sets for %s more, and nobody renews that.", a, authz.Span(s.Left))
	case s.Table:
		about.Gate += fmt.Sprintf(" %s is not in its sets.", a)
	}
}

// tableWords says what becomes of connections.
func (d *Daemon) tableWords(s nft.Sight) string {
	g := &d.Config.Gate
	mode := g.Mode
	rules := mode != nft.Observe && mode != nft.UserSets
	switch {
	case !s.Table && mode == nft.UserSets:
		return fmt.Sprintf("Your table %s %s is not there.", g.Sets.Family, g.Sets.Table)
	case !s.Table && rules:
		return "The gate's table is not there: relaygate closes nothing now, and only the mail server's own rules do."
	case !s.Table:
		return "The gate's table is not there, which would open and close nothing."
	case mode == nft.Observe && s.Rules && d.Mistakes == nil: // of another configuration
		return "The gate's table is there with rules, which mode observe has none of: what they close is closed until relaygate starts."
	case d.Mistakes != nil && s.Rules:
		return "The gate's table is there, with its rules."
	case d.Mistakes != nil:
		return "The gate's table is there."
	case rules && !s.Rules:
		return "The gate's table is there without the rules of mode " + mode.String() + ": it closes nothing."
	}
	return "The gate's table is there. " + g.Words()
}

// named tells what relayhosts says of an address with this story.
func (d *Daemon) named(s *control.Story, about *control.Offline, now time.Time) {
	a, path := s.Address, d.Config.Relayhosts
	if path == "" {
		words, err := story.Soon(func() (string, error) { return story.Foreign(story.Usual, a), nil })
		if words != "" && err == nil {
			about.Files = append(about.Files, words)
		}
		return
	}
	line, err := story.Soon(func() (*relayhosts.Line, error) { return relayhosts.Now(path, a) })
	in := line != nil
	switch {
	case err != nil:
		about.Files = append(about.Files, fmt.Sprintf("whether %s names it cannot be told: %v", path, err))
		return
	case in:
		about.Files = append(about.Files, fmt.Sprintf("%s names it (“%s”; written %s)%s",
			path, authz.QuoteWords(line.Text), authz.Ago(now.Sub(line.Time)), whose(s, about)))
	default:
		about.Files = append(about.Files, path+" does not name it")
	}
	about.InFile = &in
}

// whose says who wrote the line of an address.
func whose(s *control.Story, about *control.Offline) string {
	switch {
	case s.Granted || len(s.Events) > 0:
		return ", and nobody takes it out until relaygate runs"
	case about.Error != "":
		return "; if relaygate has not run here before, somebody else wrote that"
	}
	return "; relaygate knows nothing of it, so somebody else wrote that"
}

// mostTold bounds the addresses that are told one by one.
const mostTold = 20

// beside tells whom relayhosts names without a grant.
func (d *Daemon) beside(about *control.Offline, t *grant.Table) {
	path := d.Config.Relayhosts
	if path == "" {
		return
	}
	list, err := story.Soon(func() ([]netip.Prefix, error) { return relayhosts.Named(path) })
	if err != nil {
		about.Files = append(about.Files, fmt.Sprintf("whom %s names cannot be told: %v", path, err))
		return
	}
	var without []string
	for _, p := range list {
		if !t.Covers(p) {
			without = append(without, authz.PrefixString(p))
		}
	}
	words := fmt.Sprintf("%s names %s", path, authz.Count(len(list), "client"))
	switch n := len(without); {
	case n > mostTold:
		words += fmt.Sprintf("; %d of them have no grant: %s and more", n, strings.Join(without[:mostTold], ", "))
	case n > 0:
		words += fmt.Sprintf("; of them without a grant: %s", strings.Join(without, ", "))
	}
	about.Files = append(about.Files, words)
}
