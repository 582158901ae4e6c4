package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
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
	// errEmpty: no store leaves its file so; denials may have been lost.
	errEmpty    = fmt.Errorf("%w: it is empty", errDamaged)
	errUnopened = errors.New("it cannot be opened, and knows who is denied: if that stays so, move it away")
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
	err = s.database().View(func(tx *bbolt.Tx) error { return eachRecord(tx, bucket, visit) })
	if err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	return nil
}

func eachRecord(tx *bbolt.Tx, bucket string, visit func(key string, value []byte) error) error {
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
	s.spoiled = s.spoiled || errors.Is(err, errDamaged) || errors.Is(err, errFaulted)
	s.unmapped = errors.Is(err, berrors.ErrInvalidMapping) || errors.Is(err, berrors.ErrDatabaseNotOpen)
	return fmt.Errorf("write the state: %w", err)
}

// transact runs one transaction; writing is held.
func (s *Store) transact(do func(*bbolt.Tx) error) error {
	return s.database().Update(do)
}
