//go:build linux

package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// The mark tells our files from other programs'.
const (
	markBucket = "relaygate state"
	markKey    = "version"
)

func mark() []byte { return binary.BigEndian.AppendUint32(nil, Version) }

var (
	errForeign = errors.New("it is not relaygate's")
	errDamaged = errors.New("it is damaged")
	// errNotWritten is about the new file, not about the old one.
	errNotWritten = errors.New("write the state file")
)

// sealed puts the checksum of a record before its value: a key in which one bit
// turned over would be another address.
func sealed(k id, value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, len(value)+4), checksum(k, value)), value...)
}

func unsealed(k id, data []byte) ([]byte, error) {
	if len(data) < 4 || binary.BigEndian.Uint32(data) != checksum(k, data[4:]) {
		return nil, fmt.Errorf("%w: the checksum of a record in %q is wrong", errDamaged, k.bucket)
	}
	return data[4:], nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(k id, value []byte) uint32 {
	sum := crc32.Checksum([]byte(k.bucket+"\x00"+k.key+"\x00"), castagnoli)
	return crc32.Update(sum, castagnoli, value)
}

// Each visits the records of a bucket as they were written last, in the order
// of their keys. Key and value are valid during the visit.
func (s *Store) Each(bucket string, visit func(key string, value []byte) error) error {
	err := s.merge()
	if err != nil {
		return err
	}
	err = s.database().View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			value, err := unsealed(id{bucket, string(k)}, v)
			if err != nil {
				return err
			}
			return visit(string(k), value)
		})
	})
	if err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	return nil
}

// Flush writes what is pending as one transaction. On an error it stays
// pending.
func (s *Store) Flush() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	g := s.pending
	s.pending = group{text: s.spare}
	if g.n > 0 {
		s.flying, s.flyingBytes, s.stats.Began = g.n, len(g.text), time.Now()
	}
	s.mu.Unlock()
	s.spare = g.text
	if g.n == 0 {
		return nil
	}
	err := s.transact(g.append)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying, s.flyingBytes, s.stats.Began = 0, 0, time.Time{}
	if err != nil {
		s.spare = nil
		g.join(s.pending)
		s.pending = g
		return s.failed(err)
	}
	if cap(s.spare) > maxSpare {
		s.spare = nil
	}
	s.tail += len(g.text)
	s.stats.Writes++
	s.stats.Records += uint64(g.n)
	s.stats.LastError, s.stats.Written = "", time.Now()
	return nil
}

// failed notes an error of writing; mu is held.
func (s *Store) failed(err error) error {
	s.stats.Errors++
	s.stats.LastError = err.Error()
	s.spoiled = s.spoiled || errors.Is(err, errDamaged)
	return fmt.Errorf("write the state: %w", err)
}

// transact runs one transaction; writing is held.
func (s *Store) transact(do func(*bbolt.Tx) error) error {
	return guarded(func() error { return s.database().Update(do) })
}

// guarded turns the database's panics about damaged pages, and faults of pages
// that the file no longer has, into errors.
func guarded(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return do()
}

// copyFrom copies all records of the file at path. It is opened without its
// list of free pages, which this does not need and which may be damaged too.
func (s *Store) copyFrom(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return fs.ErrNotExist // made by hand, or never written
	}
	s.kept = info.ModTime()
	return guarded(func() error {
		old, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second, OpenFile: openFile})
		if err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		defer func() { _ = old.Close() }() // it was only read
		return old.View(func(tx *bbolt.Tx) error {
			if err := checkTrees(path, tx); err != nil {
				return err
			}
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
			if err := s.copyBuckets(tx, info.Size()); err != nil {
				return err
			}
			return s.copyTail(tx)
		})
	})
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
	for behind := []byte(nil); ; {
		p, err := oldest(tx, behind)
		if err != nil || len(p.groups) == 0 {
			return err
		}
		behind = p.groups[len(p.groups)-1]
		for list := range slices.Chunk(p.changes, copyGroup) {
			err := s.database().Update(func(tx *bbolt.Tx) error { return apply(tx, list) })
			if errors.Is(err, errDamaged) {
				return err
			}
			if err != nil {
				return fmt.Errorf("%w: %w", errNotWritten, err)
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
