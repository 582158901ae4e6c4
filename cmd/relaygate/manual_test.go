package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/doctor"
	"relaygate/nft"
)

// The pages of the manual.
const (
	programPage = "packaging/relaygate.8"
	configPage  = "packaging/relaygate.toml.5"
)

func page(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

// section is the text of a section or subsection whose title begins so.
func section(t *testing.T, text, macro, title string) string {
	t.Helper()
	_, text, ok := strings.Cut(text, "\n"+macro+" "+title)
	if !ok {
		t.Fatalf("there is no %s %s", macro, title)
	}
	end := len(text)
	for _, next := range []string{"\n.Sh ", "\n" + macro + " "} {
		if at := strings.Index(text, next); at >= 0 {
			end = min(end, at)
		}
	}
	return text[:end+1]
}

// Each verb is in the manual, with each of its flags.
func TestManualHasVerbsAndFlags(t *testing.T) {
	text := page(t, programPage)
	verbs, common := section(t, text, ".Sh", "VERBS"), section(t, text, ".Ss", "Options of several verbs")
	e, _, _ := testEnv()
	for _, c := range rootCommand(e).Commands() {
		if c.Name() == "help" {
			continue
		}
		entry := regexp.MustCompile(`(?m)^\.It Cm ` + c.Name() + `( .*)?$`).FindString(verbs)
		if entry == "" {
			t.Errorf("the verb %s is missing", c.Name())
		}
		c.InitDefaultHelpFlag()
		c.Flags().VisitAll(func(f *pflag.Flag) {
			flag := `Fl \-` + f.Name
			if !strings.Contains(entry+" ", flag+" ") && !strings.Contains(common, ".It "+flag) {
				t.Errorf("the flag --%s of %s is missing", f.Name, c.Name())
			}
		})
		for _, word := range regexp.MustCompile(`Fl \\-([a-z0-9-]+)`).FindAllStringSubmatch(entry, -1) {
			if c.Flags().Lookup(word[1]) == nil {
				t.Errorf("%s has no flag --%s", c.Name(), word[1])
			}
		}
	}
	for _, word := range regexp.MustCompile(`(?m)^\.It Cm ([a-z]+)`).FindAllStringSubmatch(verbs, -1) {
		if !slices.ContainsFunc(rootCommand(e).Commands(), func(c *cobra.Command) bool { return c.Name() == word[1] }) {
			t.Errorf("there is no verb %s", word[1])
		}
	}
}

// Each field of what --json prints is in the manual, by its shape.
func TestManualHasFields(t *testing.T) {
	text := section(t, page(t, programPage), ".Sh", "JSON") + section(t, page(t, programPage), ".Sh", "EVENTS")
	for _, shape := range []any{
		control.Grant{},
		control.Denial{},
		control.Story{},
		control.Status{},
		control.Outcome{},
		control.Verdict{},
		doctor.Finding{},
		mistake{},
		checked{},
	} {
		for _, name := range fields(reflect.TypeOf(shape)) {
			if !regexp.MustCompile(`(?m)^\.(Li|Pq Li)( .*)? ` + name + `( |$)`).MatchString(text) {
				t.Errorf("%T: the field %s is missing", shape, name)
			}
		}
	}
	for kind := authz.EventLogin; kind <= authz.EventFile; kind++ {
		if !regexp.MustCompile(`\b` + kind.String() + `\b`).MatchString(text) {
			t.Errorf("the event %s is missing", kind)
		}
	}
}

// fields are the names that a shape has in JSON, with those of what it holds.
func fields(shape reflect.Type) (names []string) {
	for shape.Kind() == reflect.Slice || shape.Kind() == reflect.Pointer {
		shape = shape.Elem()
	}
	if shape.Kind() != reflect.Struct || shape.Implements(reflect.TypeFor[json.Marshaler]()) {
		return nil
	}
	for i := range shape.NumField() {
		name, _, _ := strings.Cut(shape.Field(i).Tag.Get("json"), ",")
		if name != "" {
			names = append(append(names, name), fields(shape.Field(i).Type)...)
		}
	}
	return names
}

// Each key of the default file is in the manual, with its default.
func TestManualHasKeysAndDefaults(t *testing.T) {
	text := page(t, configPage)
	table, keys := "", make(map[string]bool)
	for line := range strings.Lines(string(config.DefaultFile)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") && !strings.Contains(line, "=") {
			table = strings.Trim(line, "[]") + "."
			continue
		}
		key, value, ok := strings.Cut(line, " = ")
		if !ok {
			continue
		}
		keys[table+key] = true
		entry := ".It Ic " + table + key + " No = Li " + strings.ReplaceAll(value, `"`, `\(dq`)
		if !strings.Contains(text, "\n"+entry+"\n") {
			t.Errorf("there is no line %s", entry)
		}
	}
	for _, word := range regexp.MustCompile(`(?m)^\.It Ic (\S+) No`).FindAllStringSubmatch(text, -1) {
		if !keys[word[1]] {
			t.Errorf("there is no key %s", word[1])
		}
	}
}

// Each mode has its recipe for relaygate, Exim and Postfix, and names its second
// lock. That the recipes work is for the tests beside real servers.
func TestManualHasRecipes(t *testing.T) {
	text := page(t, configPage)
	labels := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^\.\\" snippet (\S+) (.*)$`).FindAllStringSubmatch(text, -1) {
		for _, mode := range strings.Fields(m[2]) {
			labels[m[1]+" "+mode] = true
		}
	}
	for _, mode := range nft.Modes {
		for _, program := range []string{"gate", "exim", "postfix"} {
			if !labels[program+" "+mode] {
				t.Errorf("mode %s has no recipe for %s", mode, program)
			}
		}
		words := strings.Join(strings.Fields(section(t, text, ".Ss", mode+"\n")), " ")
		if mode == nft.Observe.String() {
			if !strings.Contains(words, "the only lock") {
				t.Errorf("mode %s does not name its lock", mode)
			}
		} else if !strings.Contains(words, "second lock is the file") {
			t.Errorf("mode %s does not name its second lock", mode)
		}
	}
}

// testNames are the names of all tests of the module.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	const root = "../.."
	names := make(map[string]bool)
	declaration := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, m := range declaration.FindAllSubmatch(data, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	must(t, err)
	return names
}

// The table of faults says of each what is open and what is closed, and each row
// names the tests that show it.
func TestManualShowsEachFault(t *testing.T) {
	faults := section(t, page(t, programPage), ".Sh", "FAULTS")
	rows := strings.Split(faults, "\n.It Sy ")[1:]
	if len(rows) < 20 {
		t.Errorf("the table of faults has %d rows", len(rows))
	}
	names := testNames(t)
	for _, row := range rows {
		title, row, _ := strings.Cut(row, "\n")
		for _, want := range []string{".Em Open :\n", ".Em Closed :\n"} {
			if !strings.Contains("\n"+row, "\n"+want) {
				t.Errorf("%q does not say %q", title, want)
			}
		}
		_, tests, ok := strings.Cut(row, ".\\\" Shown by ")
		tests, _, _ = strings.Cut(tests, "\n")
		if !ok || tests == "" {
			t.Errorf("%q is shown by no test", title)
		}
		for _, name := range strings.Fields(tests) {
			if !names[name] {
				t.Errorf("%q is shown by %s, which is no test", title, name)
			}
		}
	}
}

// The pages are clean, and fit on a terminal of 80 columns.
func TestManualIsClean(t *testing.T) {
	if _, err := exec.LookPath("mandoc"); err != nil {
		t.Skip("needs mandoc(1) to look at the pages: ", err)
	}
	for _, path := range []string{programPage, configPage} {
		if out, err := exec.Command("mandoc", "-Tlint", "-W", "warning", path).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v\n%s", err, out)
		}
		out, err := exec.Command("mandoc", "-Tascii", path).Output()
		must(t, err)
		overstrike := regexp.MustCompile(".\x08")
		for line := range strings.Lines(overstrike.ReplaceAllString(string(out), "")) {
			if line = strings.TrimRight(line, "\n"); len(line) > 80 {
				t.Errorf("%s has a line of %d columns: %s", path, len(line), line)
			}
		}
	}
}

// The manual's expressions find in the logs of Exim and Postfix who sent without SMTP AUTH,
// whatever else these are told to log and whatever subject or name a client chooses.
func TestManualReadsMailLogs(t *testing.T) {
	words := strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\e`, `\`, `\(ha`, "^")
	expressions := regexp.MustCompile(`(?m)^sed .*'(.*)' (mainlog|mail\.log) \|$`).FindAllStringSubmatch(words.Replace(page(t, programPage)), -1)
	if len(expressions) != 2 {
		t.Fatalf("%d expressions, want one for each server", len(expressions))
	}
	for _, expression := range expressions {
		lines := map[string]string{
			`1xX1y0-0000UY-2h <= a@x.example H=(pc) [198.51.100.8] P=esmtp S=240`:                                                                        "198.51.100.8",
			`1xX1y0-0000UY-2h <= <> R=1xX1y0-0000UY-2g H=pc.example ([192.168.1.5]) [2001:db8::7]:44341 I=[2001:db8::2]:25 P=smtp S=240`:                 "2001:db8::7",
			`1xX1y0-0000UY-2h <= a@x.example H=([192.168.1.5]) [198.51.100.8]:46509 I=[198.51.100.2]:25 P=esmtps X=TLS1.3:X:256 S=240 T="[1] P=esmtp x"`: "198.51.100.8",
			`1xX1y0-0000UY-2h <= a@x.example H=(pc) [198.51.100.8] P=esmtp S=240 T="of [203.0.113.1] P=esmtp and"`:                                       "198.51.100.8",
			`1xX1y0-0000UY-2h <= a@x.example H=(pc) [198.51.100.8] P=esmtpsa X=TLS1.3:X:256 A=plain:bob S=240 T="of [203.0.113.1] P=esmtp and"`:          "",
			`1xX1y0-0000UY-2h <= a@x.example U=bob P=local S=240`:                                                                                        "",
			`1xX1y0-0000UY-2h => b@y.example R=r T=t H=mx [203.0.113.25] C="250 OK"`:                                                                     "",
		}
		if expression[2] == "mail.log" {
			lines = map[string]string{
				`Nov 27 19:47:14 mail postfix/smtpd[123]: 4XYZ: client=unknown[198.51.100.8]`:                                       "198.51.100.8",
				`2026-11-27T19:47:14.1+00:00 mail postfix/smtpd[123]: 4XYZ: client=pc.example[2001:db8::7]`:                         "2001:db8::7",
				`Nov 27 19:47:14 mail postfix/smtpd[123]: 4XYZ: client=unknown[198.51.100.8], sasl_method=PLAIN, sasl_username=bob`: "",
				`Nov 27 19:47:14 mail postfix/smtpd[123]: connect from unknown[198.51.100.8]`:                                       "",
				`Nov 27 19:47:14 mail postfix/pickup[123]: 4XYZ: uid=0 from=<root>`:                                                 "",
			}
		}
		for line, want := range lines {
			sed := exec.Command("sed", "-nE", expression[1])
			sed.Stdin = strings.NewReader(line + "\n")
			got, err := sed.Output()
			must(t, err)
			if strings.TrimSpace(string(got)) != want {
				t.Errorf("of %s: %q, want %q", line, got, want)
			}
		}
	}
}
