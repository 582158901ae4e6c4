package state

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"go.etcd.io/bbolt"
)

// rescue copies of a file that is not believed, as it is damaged or of another version,
// what can be read of the buckets in closing: nothing is opened by their records, and
// without them something would be. It says how many there are. Where a group of the tail
// is lost, one may stand that was deleted.
func (s *Store) rescue(path string, closing []string) (n int, err error) {
	err = reading(path, func(_ io.ReaderAt, tx *bbolt.Tx) error {
		for _, bucket := range closing {
			if err := s.append([]byte(bucket), readable(tx, bucket)); err != nil {
				return err
			}
		}
		later := readableTail(tx, closing)
		err := s.database().Update(func(fresh *bbolt.Tx) error { return apply(fresh, later) })
		if err != nil {
			return fmt.Errorf("%w: %w", errNotWritten, err)
		}
		return s.database().View(func(fresh *bbolt.Tx) error {
			for _, bucket := range closing {
				n += fresh.Bucket([]byte(bucket)).Stats().KeyN
			}
			return nil
		})
	})
	if errors.Is(err, errNotWritten) || errors.Is(err, errUnopened) {
		return 0, err
	}
	return n, nil // of what cannot be read nothing is to be said but that
}

// readable are the records of a bucket whose checksum is right.
func readable(tx *bbolt.Tx, bucket string) (list []record) {
	b := tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	at := b.Cursor()
	for k, v := at.First(); k != nil; k, v = at.Next() {
		if _, err := unsealed(id{bucket, string(k)}, v); err == nil {
			list = append(list, record{k, v})
		}
	}
	return list
}

// readableTail are the changes of buckets in the tail's groups that can be read.
func readableTail(tx *bbolt.Tx, buckets []string) []change {
	var p part
	b := tx.Bucket([]byte(tailBucket))
	if b == nil {
		return nil
	}
	at := b.Cursor()
	for k, _ := at.First(); k != nil; k, _ = at.Next() {
		before := p.changes
		if p.add(b, k) != nil {
			p.changes = before
		}
		p.changes = slices.DeleteFunc(p.changes, func(c change) bool { return !slices.Contains(buckets, string(c.bucket)) })
	}
	p.sort()
	return p.changes
}
