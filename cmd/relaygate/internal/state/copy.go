package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// copyFrom copies all records of the file at path. It is opened without its
// list of free pages, which this does not need and which may be damaged too.
func (s *Store) copyFrom(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil {
		return unopened(err)
	}
	s.kept = info.ModTime()
	return reading(path, func(f io.ReaderAt, tx *bbolt.Tx) error {
		err := checkBegin(f, tx)
		if err == nil {
			err = checkMark(tx)
		}
		if err != nil {
			return err
		}
		if err := s.copyBuckets(tx, info.Size()); err != nil {
			return err
		}
		return s.copyTail(tx)
	})
}

// unopened tells apart what is wrong with a file, and what keeps it from being opened:
// want of descriptors or memory, say, another program's lock, or a disk that is away. That
// passes, and to begin without a good file would be to forget who is denied.
func unopened(err error) error {
	_, refused := errors.AsType[unix.Errno](err)
	if refused || errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("%w: %w", errUnopened, err)
	}
	return fmt.Errorf("%w: %w", errDamaged, err)
}

// unread fails where the disk does not read a file to its end: what is mapped of it and
// what stands in its first page would be taken for damage.
func unread(f io.Reader) error {
	if _, err := io.Copy(io.Discard, f); err != nil {
		return unopened(err)
	}
	return nil
}

// reading reads a file that may be damaged.
func reading(path string, do func(io.ReaderAt, *bbolt.Tx) error) error {
	if info, err := os.Stat(path); err == nil && info.Size() == 0 {
		return errEmpty
	}
	f, err := openFile(path, os.O_RDONLY, 0)
	if err != nil {
		return unopened(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	if err := unread(f); err != nil {
		return err
	}
	return guarded(func() error {
		old, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second, OpenFile: openFile})
		if err != nil {
			return unopened(err)
		}
		defer func() { _ = old.Close() }() // likewise
		return old.View(func(tx *bbolt.Tx) error {
			if err := checkTrees(f, tx); err != nil {
				return err
			}
			return do(f, tx)
		})
	})
}

// checkMark fails if a file is not ours, or of another version.
func checkMark(tx *bbolt.Tx) error {
	b := tx.Bucket([]byte(markBucket))
	if b == nil {
		return errForeign
	}
	version := b.Get([]byte(markKey))
	if len(version) != 4 {
		return errForeign
	}
	if v := binary.BigEndian.Uint32(version); v != Version {
		return fmt.Errorf("it is of version %d, and this relaygate reads version %d", v, Version)
	}
	return nil
}

// copyGroup is how many records are copied per transaction.
const copyGroup = 1 << 16

// copyBuckets copies every record, checked. A damaged tree may lead in circles:
// there cannot be more records than the file has bytes for.
func (s *Store) copyBuckets(tx *bbolt.Tx, size int64) error {
	const smallest = 16 + 4 // a leaf element's header and a checksum
	left := size / smallest
	return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		if b == nil {
			return fmt.Errorf("%w: %q is no bucket", errDamaged, name)
		}
		if string(name) == markBucket || string(name) == tailBucket {
			return nil
		}
		var group []record
		err := b.ForEach(func(k, v []byte) error {
			_, err := unsealed(id{string(name), string(k)}, v)
			if left--; err == nil && left < 0 {
				err = fmt.Errorf("%w: more records than it has room for", errDamaged)
			}
			if err != nil {
				return err
			}
			if group = append(group, record{k, v}); len(group) >= copyGroup {
				err = s.append(name, group)
				group = group[:0]
			}
			return err
		})
		if err != nil {
			return err
		}
		return s.append(name, group)
	})
}

// copyTail puts the changes of the old file's tail in their places.
func (s *Store) copyTail(tx *bbolt.Tx) error {
	return eachPart(tx, func(list []change) error {
		err := s.database().Update(func(tx *bbolt.Tx) error { return apply(tx, list) })
		if err != nil && !errors.Is(err, errDamaged) {
			err = fmt.Errorf("%w: %w", errNotWritten, err)
		}
		return err
	})
}

// eachPart visits the changes of a tail in their order.
func eachPart(tx *bbolt.Tx, visit func([]change) error) error {
	for behind := []byte(nil); ; {
		p, err := oldest(tx, behind)
		if err != nil || len(p.groups) == 0 {
			return err
		}
		behind = p.groups[len(p.groups)-1]
		for list := range slices.Chunk(p.changes, copyGroup) {
			if err := visit(list); err != nil {
				return err
			}
		}
	}
}

// record is one of the old file, as it is there.
type record struct{ key, sealed []byte }

// append adds records in the order of their keys: so each page is written once,
// and full.
func (s *Store) append(bucket []byte, list []record) error {
	err := s.database().Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		b.FillPercent = 1
		for _, r := range list {
			if err := b.Put(r.key, r.sealed); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errNotWritten, err)
	}
	return nil
}

// copyOpen copies all records of a database that is open.
func (s *Store) copyOpen(old *database) error {
	return old.View(func(tx *bbolt.Tx) error {
		if err := s.copyBuckets(tx, tx.Size()); err != nil {
			return err
		}
		return s.copyTail(tx)
	})
}
