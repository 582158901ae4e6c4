package relayhosts

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What nobody will keep is emptied wherever it was written, also where a link came to
// name another file, or the copy of what a file held is gone.
func TestForsakeKnowsWhatWasWritten(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"the link moved": func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path+".far", []byte("198.51.100.1\n"), 0o600), os.Symlink(path+".far", path))
		},
		"the copy is gone": func(path string) error { return os.Remove(path + BackupSuffix) },
		"the folder is gone": func(path string) error {
			return errors.Join(os.RemoveAll(filepath.Dir(path)), os.Mkdir(filepath.Dir(path), 0o700))
		},
	} {
		path := filepath.Join(t.TempDir(), "mail", "relayhosts")
		must(t, os.Mkdir(filepath.Dir(path), 0o700))
		w := NewWriter(Config{Hosts: path})
		write(t, w, start, one(1))
		must(t, harm(path))
		r := write(t, w, start.Add(minInterval), one(2))
		for _, f := range r.Foreign {
			if name != "the link moved" || !slices.Equal(f.Lines, []string{"198.51.100.1"}) {
				t.Errorf("%s: %+v", name, f)
			}
		}
		holds(t, path, "203.0.113.2\n")
		if err := NewWriter(Config{Hosts: path}).Forsake(); err != nil { // it was killed
			t.Errorf("%s: %v", name, err)
		}
		holds(t, path, "")
	}
}
