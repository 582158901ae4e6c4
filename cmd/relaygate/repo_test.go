package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// mayImport is who may use whom, by folder of the module: the first entry that
// a package lies in counts. What strangers choose comes in at capture; what
// opens a relay leaves at nft; neither knows the other.
var mayImport = []struct {
	folder  string
	allowed []string
}{
	{"cmd", []string{"authz", "bpf", "capture", "cmd", "nft"}},
	{"bpf/bpftest", []string{"bpf/netns"}},
	{"bpf", []string{"bpf"}},
	{"capture", []string{"authz", "bpf", "capture"}},
	{"authz", []string{"authz"}},
	{"nft", []string{"authz"}},
}

// within tells whether a folder is parent or lies in it.
func within(folder, parent string) bool {
	return folder == parent || strings.HasPrefix(folder, parent+"/")
}

// goFiles parses every Go file of the module, up to its imports.
func goFiles(t *testing.T, visit func(folder, name, pkg, doc string, imports []string)) {
	t.Helper()
	const root = "../.."
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, name)
		}
		visit(path.Dir(filepath.ToSlash(rel)), d.Name(), f.Name.Name, f.Doc.Text(), imports)
		return nil
	})
	must(t, err)
}

func TestImportsFlowOneWay(t *testing.T) {
	goFiles(t, func(folder, name, _, _ string, imports []string) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		for _, i := range imports {
			used, ours := strings.CutPrefix(i, "relaygate/")
			if !ours {
				continue
			}
			for _, rule := range mayImport {
				if !within(folder, rule.folder) {
					continue
				}
				ok := false
				for _, a := range rule.allowed {
					ok = ok || within(used, a)
				}
				if !ok {
					t.Errorf("%s/%s imports %s, which %s may not", folder, name, i, rule.folder)
				}
				break
			}
		}
	})
}

// The value types are all that authz's users get: what is in a package of its
// own below authz belongs to the program that joins the stages.
func TestCaptureUsesValueTypesOnly(t *testing.T) {
	goFiles(t, func(folder, name, _, _ string, imports []string) {
		if !within(folder, "capture") && !within(folder, "nft") || strings.HasSuffix(name, "_test.go") {
			return
		}
		for _, i := range imports {
			if strings.HasPrefix(i, "relaygate/authz/") {
				t.Errorf("%s/%s imports %s", folder, name, i)
			}
		}
	})
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := make(map[string]bool)
	goFiles(t, func(folder, name, pkg, doc string, _ []string) {
		if strings.HasSuffix(pkg, "_test") || strings.HasSuffix(name, "_test.go") {
			return
		}
		documented[folder] = documented[folder] || doc != ""
	})
	for folder, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", folder)
		}
	}
}

// TestThePackageFindsItsFiles: what nfpm.yaml names is there.
func TestThePackageFindsItsFiles(t *testing.T) {
	const list = "packaging/nfpm.yaml"
	text, err := os.ReadFile(list)
	must(t, err)
	sources := regexp.MustCompile(`(?m)^ +(?:- src|postinstall|preremove|postremove): (.+)$`).FindAllSubmatch(text, -1)
	if len(sources) < 10 {
		t.Errorf("%s names %d files", list, len(sources))
	}
	for _, s := range sources {
		path := string(s[1])
		if _, err := os.Stat(filepath.Join("../..", path)); err != nil && !strings.HasPrefix(path, "bin/") {
			t.Errorf("%s: %v", list, err)
		}
	}
}
