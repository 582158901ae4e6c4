package state

import (
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
)

// long says that the tail is to be merged.
func (s *Store) long() bool { return s.tailSize() > maxTail }

func (s *Store) tailSize() int {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.tail
}

// merge puts the tail as it is now in its place, a few records at a time: what is put
// meanwhile is written in between, and is not waited for. A merge that does not come
// to its end is done again from its begin, to the same effect.
func (s *Store) merge() error {
	s.merging.Lock()
	defer s.merging.Unlock()
	left := s.tailSize()
	if left == 0 {
		return nil
	}
	for left > 0 {
		size, err := s.mergePart()
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.failed(err)
		}
		left -= size
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Merges++
	return nil
}

// mergePart merges the first part of a tail that is not empty, and returns its size.
func (s *Store) mergePart() (size int, err error) {
	var p part
	err = s.database().View(func(tx *bbolt.Tx) (err error) { p, err = oldest(tx, nil); return err })
	if err == nil && len(p.groups) == 0 {
		err = fmt.Errorf("%w: the groups of changes are missing", errDamaged)
	}
	if err != nil {
		return 0, err
	}
	for list := range slices.Chunk(p.changes, mergeSize) {
		if err := s.write(func(tx *bbolt.Tx) error { return apply(tx, list) }); err != nil {
			return 0, err
		}
		_ = s.Flush() // told by Stats
	}
	if err := s.write(p.cut); err != nil {
		return 0, err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.tail -= p.size
	return p.size, nil
}

func (s *Store) write(do func(*bbolt.Tx) error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.transact(do)
}

// cut takes the groups of a part out of the tail.
func (p *part) cut(tx *bbolt.Tx) error {
	b := tx.Bucket([]byte(tailBucket))
	for _, key := range p.groups {
		if err := b.DeleteBucket(key); err != nil {
			return fmt.Errorf("cut the tail: %w", err)
		}
	}
	if k, _ := b.Cursor().First(); k == nil {
		return b.SetSequence(0) // what is no number of a group: see oldest
	}
	return nil
}
