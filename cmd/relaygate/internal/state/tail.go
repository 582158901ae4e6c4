package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
)

// tailBucket holds the latest changes in the order in which they were made: each
// group is a bucket there, by its number, with one record. (As records of one bucket
// they would share pages, and each group be written several times.) To put them in
// their places costs ten times as much, as each page of the database that one of them
// is in must be written anew; so that is done for many at once (merge). Whoever reads
// a bucket merges first.
const tailBucket = "tail"

// groupKey is the key of a group in its bucket.
const groupKey = "changes"

const (
	// maxTail is how large the tail gets before it is merged, in bytes.
	maxTail = 64 << 20
	// maxSpare bounds the room that is kept for the next group.
	maxSpare = 4 << 20
	// mergeBytes bounds what of it is in memory at a time, in bytes, and mergeSize what
	// is put in its place in one transaction, in changes: each may be of a page of its own.
	mergeBytes = 8 << 20
	mergeSize  = 4096
)

// group is changes in their order, as the tail has them. Its first bytes are room
// for the checksum.
type group struct {
	text []byte
	n    int
}

const sumBytes = 4

// deleted stands for the length of a record that is to be deleted.
const deleted = 1<<32 - 1

func (g *group) add(k id, value []byte, gone bool) {
	if g.n == 0 {
		g.text = append(g.text[:0], make([]byte, sumBytes)...)
	}
	g.text = append(binary.AppendUvarint(g.text, uint64(len(k.bucket))), k.bucket...)
	g.text = append(binary.AppendUvarint(g.text, uint64(len(k.key))), k.key...)
	length := uint32(len(value))
	if gone {
		length = deleted
	}
	g.text = append(binary.BigEndian.AppendUint32(g.text, length), value...)
	g.n++
}

// join puts later changes behind those of g.
func (g *group) join(later group) {
	if g.n == 0 {
		*g = later
	} else if later.n > 0 {
		g.text = append(g.text, later.text[sumBytes:]...)
		g.n += later.n
	}
}

// change is one that the tail holds. A value of nil is to be deleted.
type change struct {
	bucket, key, value []byte
	order              int // higher than those of all before
}

// changes reads what add wrote, without the checksum.
func changes(list []change, text []byte) ([]change, error) {
	errShort := fmt.Errorf("%w: a group of changes ends too early", errDamaged)
	field := func() []byte {
		n, size := binary.Uvarint(text)
		if size <= 0 || n > uint64(len(text)-size) {
			return nil
		}
		f := text[size : size+int(n)]
		text = text[size+int(n):]
		return f
	}
	order := 0
	if len(list) > 0 {
		order = list[len(list)-1].order + 1
	}
	for ; len(text) > 0; order++ {
		c := change{bucket: field(), key: field(), order: order}
		if c.bucket == nil || c.key == nil || len(text) < 4 {
			return nil, errShort
		}
		n := binary.BigEndian.Uint32(text)
		text = text[4:]
		if n != deleted {
			if uint64(n) > uint64(len(text)) {
				return nil, errShort
			}
			c.value, text = text[:n:n], text[n:]
		}
		list = append(list, c)
	}
	return list, nil
}

// append makes the group the tail's last.
func (g *group) append(tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists([]byte(tailBucket))
	if err != nil {
		return fmt.Errorf("bucket %q: %w", tailBucket, err)
	}
	number, err := b.NextSequence()
	if err != nil {
		return fmt.Errorf("number a group of changes: %w", err)
	}
	key := binary.BigEndian.AppendUint64(nil, number)
	if b, err = b.CreateBucket(key); err != nil {
		return fmt.Errorf("make room for a group of changes: %w", err)
	}
	binary.BigEndian.PutUint32(g.text, checksum(id{tailBucket, string(key)}, g.text[sumBytes:]))
	return b.Put([]byte(groupKey), g.text)
}

// part is a part of the tail.
type part struct {
	changes []change // sorted, one of each record
	groups  [][]byte // the keys of the groups that they come from
	size    int      // of these in bytes
}

// oldest is the first part of a tail behind a group, which is nil to begin; it is
// empty at the end.
func oldest(tx *bbolt.Tx, behind []byte) (p part, err error) {
	b := tx.Bucket([]byte(tailBucket))
	if b == nil {
		return p, nil
	}
	at := b.Cursor()
	k, _ := at.Seek(behind)
	if behind != nil && bytes.Equal(k, behind) {
		k, _ = at.Next()
	}
	for ; k != nil && p.size < mergeBytes; k, _ = at.Next() {
		if behind != nil && number(k, nil) != number(behind, nil)+1 {
			return p, fmt.Errorf("%w: a group of changes is missing", errDamaged)
		}
		if err := p.add(b, k); err != nil {
			return p, err
		}
		behind = p.groups[len(p.groups)-1]
	}
	if k == nil && number(at.Last()) != b.Sequence() {
		return p, fmt.Errorf("%w: the last group of changes is missing", errDamaged)
	}
	p.sort()
	return p, nil
}

// number is that of a group with a key, 0 of none.
func number(key, _ []byte) uint64 {
	if len(key) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}

// add reads a group of the tail's bucket.
func (p *part) add(tail *bbolt.Bucket, key []byte) error {
	b := tail.Bucket(key)
	if b == nil {
		return fmt.Errorf("%w: something else is among the groups of changes", errDamaged)
	}
	group := b.Get([]byte(groupKey))
	text, err := unsealed(id{tailBucket, string(key)}, group)
	if err != nil {
		return err
	}
	// The database's memory may move before it is used.
	if p.changes, err = changes(p.changes, bytes.Clone(text)); err != nil {
		return err
	}
	p.groups = append(p.groups, bytes.Clone(key))
	p.size += len(group)
	return nil
}

// sort puts changes in the order of their records, in which neighbours share the
// database's pages. Of several of one record the last counts.
func (p *part) sort() {
	same := func(a, b change) bool { return bytes.Equal(a.bucket, b.bucket) && bytes.Equal(a.key, b.key) }
	slices.SortFunc(p.changes, func(a, b change) int {
		if c := bytes.Compare(a.bucket, b.bucket); c != 0 {
			return c
		}
		if c := bytes.Compare(a.key, b.key); c != 0 {
			return c
		}
		return b.order - a.order
	})
	p.changes = slices.CompactFunc(p.changes, same)
}

// apply puts changes in their places.
func apply(tx *bbolt.Tx, list []change) error {
	var b *bbolt.Bucket
	for i := range list {
		c := &list[i]
		var err error
		if i == 0 || !bytes.Equal(c.bucket, list[i-1].bucket) {
			if name := string(c.bucket); name == markBucket || name == tailBucket {
				return fmt.Errorf("%w: a change of %q", errDamaged, name)
			}
			if b, err = tx.CreateBucketIfNotExists(c.bucket); err != nil {
				return fmt.Errorf("bucket %q: %w", c.bucket, err)
			}
		}
		if c.value == nil {
			err = b.Delete(c.key)
		} else {
			err = b.Put(c.key, sealed(id{string(c.bucket), string(c.key)}, c.value))
		}
		if err != nil {
			return fmt.Errorf("record of %q: %w", c.bucket, err)
		}
	}
	return nil
}
