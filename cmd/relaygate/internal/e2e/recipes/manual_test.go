//go:build e2e

package recipes

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// snippet takes a recipe out of the manual: the one for a program in a mode.
func snippet(t *testing.T, program, mode string) string {
	t.Helper()
	manual, err := os.ReadFile("../../../packaging/relaygate.toml.5")
	must(t, err)
	for rest := string(manual); ; {
		var found bool
		if _, rest, found = strings.Cut(rest, "\n.\\\" snippet "); !found {
			t.Fatalf("the manual has no recipe for %s in mode %s", program, mode)
		}
		label, body, _ := strings.Cut(rest, "\n")
		words := strings.Fields(label)
		if words[0] != program || !slices.Contains(words[1:], mode) {
			continue
		}
		body, literal := strings.CutPrefix(body, ".Bd -literal -offset indent\n")
		body, _, closed := strings.Cut(body, ".Ed\n")
		if !literal || !closed {
			t.Fatalf("the recipe for %s in mode %s is no literal text", program, mode)
		}
		return plain(t, body)
	}
}

// plain undoes what roff(7) needs.
func plain(t *testing.T, text string) string {
	t.Helper()
	const backslash = "\x00"
	text = strings.NewReplacer(`\-`, "-", `\e`, backslash, `\(aq`, "'", `\&`, "").Replace(text)
	if strings.Contains(text, `\`) {
		t.Fatalf("a recipe has an escape that is not known:\n%s", text)
	}
	return strings.ReplaceAll(text, backslash, `\`)
}
