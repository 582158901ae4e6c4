package relayhosts

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
)

// A link to what is no file is said, and forgotten with it.
func TestWriterOfALinkToNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	w := NewWriter(Config{Hosts: path})
	write(t, w, start, one(1))
	for _, target := range []string{"/dev/null", "/nonexistent/there", path, filepath.Dir(path)} {
		must(t, errors.Join(os.Remove(path), os.Symlink(target, path)))
		for range 2 {
			r, err := w.Write(start, one(1))
			if err == nil || r.Failed[path] == nil || len(r.Repaired) > 0 {
				t.Errorf("to %s: %+v, %v", target, r, err)
			}
		}
		if err := Others(path); err != nil { // chmod go-w /dev/null would break the host
			t.Errorf("to %s: %v", target, err)
		}
		must(t, os.Remove(path))
		write(t, w, start, one(2))
		holds(t, path, "203.0.113.2\n")
	}
}

// No right of others to write is kept, whenever it is given.
func TestWriterTakesOthersRightToWrite(t *testing.T) {
	synctest.Test(t, testWriterTakesOthersRightToWrite)
}

func testWriterTakesOthersRightToWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	put(t, path, "")
	for _, mode := range []os.FileMode{0o666, 0o664, 0o646} {
		must(t, os.Chmod(path, mode))
		if err := Others(path); err == nil {
			t.Errorf("nobody else may write a file of mode %v", mode)
		}
		w := NewWriter(Config{Hosts: path})
		write(t, w, start, nil) // nothing but the mode is to be changed
		if err := Others(path); err != nil {
			t.Errorf("mode %v: %v", mode, err)
		}
		must(t, os.Chmod(path, mode))
		w.Look(start)
		due(t, w, start.Add(minInterval))
		if r := write(t, w, start, one(1)); len(r.Repaired) != 0 || Others(path) != nil {
			t.Errorf("mode %v: %+v, %v", mode, r, Others(path))
		}
	}
	// Also where the file can only be written in its place, as it has another name.
	must(t, errors.Join(os.Link(path, path+".other"), os.Chmod(path, 0o666)))
	w := NewWriter(Config{Hosts: path})
	write(t, w, start, one(2))
	must(t, Others(path))
	// One whose mode came between our write and the mark is looked at again, and not for
	// ever where it cannot be changed.
	must(t, os.Chmod(path, 0o666))
	f := w.files[0]
	f.leave()
	if w.Look(start); !w.dirty {
		t.Error("it is not written again")
	}
	w.dirty = false
	f.leave()
	if w.Look(start); w.dirty {
		t.Error("it is written for ever")
	}
	w.Changed()
	write(t, w, start, one(3))
	if os.Geteuid() == 0 {
		must(t, os.Chown(path, 12345, 0))
		if err := Others(path); err == nil || !strings.Contains(err.Error(), "user 12345") {
			t.Errorf("of another's file: %v", err)
		}
	}
}

// Who may write in the file's folder can put another in its place.
func TestOthersInTheFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "relayhosts")
	put(t, path, "")
	for _, tt := range []struct {
		mode  os.FileMode
		owner int
		want  string // "" for nobody
	}{
		{0o755, 0, ""},
		{0o777 | os.ModeSticky, 0, ""},
		{0o777, 0, "can be written by other users"},
		{0o775, 0, "can be written by other users"},
		{0o755, 12345, "belongs to user 12345"},
		{0o777 | os.ModeSticky, 12345, "belongs to user 12345"},
	} {
		must(t, errors.Join(os.Chown(dir, tt.owner, 0), os.Chmod(dir, tt.mode)))
		err := Others(path)
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), dir+" "+tt.want) {
			t.Errorf("mode %v, of user %d: %v, want %q", tt.mode, tt.owner, err, tt.want)
		}
	}
}

// Who may make a link in the file's folder has nothing of root's written, and a copy is
// for nobody else to read.
func TestReplaceFollowsNoLinkOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "relayhosts"), filepath.Join(dir, "victim")
	put(t, victim, "precious")
	must(t, errors.Join(os.Chmod(victim, 0o600), os.Symlink(victim, path), os.Lchown(path, 12345, 12345)))
	w := NewWriter(Config{Hosts: path})
	if _, err := w.Write(start, one(1)); err == nil || !strings.Contains(err.Error(), "link of user 12345") {
		t.Errorf("error %v", err)
	}
	holds(t, victim, "precious")
	if names := names(t, dir); names != "relayhosts victim" {
		t.Errorf("there are %s", names)
	}
	must(t, os.Lchown(path, 0, 0))
	write(t, w, start, one(1))
	info, err := os.Stat(victim + BackupSuffix)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the copy has mode %v, %v", info.Mode(), err)
	}
	holds(t, victim+BackupSuffix, "precious")
}
