package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"

	"go.etcd.io/bbolt"
)

// trees looks at the pages of an old file before the database does. That would go in
// circles for ever, and take all memory, where damage has put a page below itself; and
// would not miss records where a page says that it has fewer.
type trees struct {
	file     io.ReaderAt
	pageSize int64
	seen     map[uint64]bool
	waiting  []uint64 // pages
}

// The database's page (bbolt, internal/common): its header; elements, which in a leaf
// are records or buckets, and else the pages below; and their keys and values, each
// close behind the one before.
const (
	pageHeader  = 16
	pageFlags   = 8  // two bytes
	pageCount   = 10 // two bytes
	pageIsLeaf  = 2
	elementSize = 16
	// Of an element in a leaf, four bytes each.
	leafFlags, leafPos, leafKey, leafValue = 0, 4, 8, 12
	leafBucket                             = 1
	// Of another: four, four and eight.
	branchPos, branchKey, branchPage = 0, 4, 8
	// A bucket's value is the number of its page and a counter. A small one has
	// number 0, and its page follows there.
	bucketHeader = 16
	// Behind the header of the first two pages, which are written in turn, is where the
	// tree begins, and behind that its checksum.
	beginBytes, beginSum = 56, 8
)

var (
	errTwice  = errors.New("it is in two places")
	errLayout = errors.New("it is not laid out as a page is")
	errBegin  = errors.New("its checksum is wrong")
)

// checkBegin fails if one of the first two pages is damaged. The database takes the other
// then, and with it what held before the last transaction: that may have closed something.
func checkBegin(f io.ReaderAt, tx *bbolt.Tx) error {
	for page := range 2 {
		var b [beginBytes + beginSum]byte
		_, err := f.ReadAt(b[:], int64(page*tx.DB().Info().PageSize+pageHeader))
		sum := fnv.New64a()
		_, _ = sum.Write(b[:beginBytes]) // it never fails (hash.Hash)
		if err == nil && sum.Sum64() != binary.NativeEndian.Uint64(b[beginBytes:]) {
			err = errBegin
		}
		if err != nil {
			return fmt.Errorf("%w: page %d: %w", errDamaged, page, err)
		}
	}
	return nil
}

// checkTrees fails if a page of a file, which tx reads, is in two places.
func checkTrees(f io.ReaderAt, tx *bbolt.Tx) error {
	t := trees{file: f, pageSize: int64(tx.DB().Info().PageSize), seen: make(map[uint64]bool)}
	t.waiting = append(t.waiting, uint64(tx.Cursor().Bucket().Root()))
	for len(t.waiting) > 0 {
		page := t.waiting[len(t.waiting)-1]
		t.waiting = t.waiting[:len(t.waiting)-1]
		if err := t.visit(page); err != nil {
			return fmt.Errorf("%w: page %d: %w", errDamaged, page, err)
		}
	}
	return nil
}

func (t *trees) visit(page uint64) error {
	if t.seen[page] {
		return errTwice
	}
	t.seen[page] = true
	return t.page(int64(page) * t.pageSize)
}

// page looks at the one that begins at an offset, and notes those below it and those
// of the buckets in it.
func (t *trees) page(from int64) error {
	var header [pageHeader]byte
	if _, err := t.file.ReadAt(header[:], from); err != nil {
		return err
	}
	leaf := binary.NativeEndian.Uint16(header[pageFlags:]) == pageIsLeaf
	elements := make([]byte, elementSize*int(binary.NativeEndian.Uint16(header[pageCount:])))
	from += pageHeader
	if _, err := t.file.ReadAt(elements, from); err != nil {
		return err
	}
	next := from + int64(len(elements))
	for ; len(elements) > 0; elements, from = elements[elementSize:], from+elementSize {
		number := func(at int) int64 { return int64(binary.NativeEndian.Uint32(elements[at:])) }
		if !leaf {
			if from+number(branchPos) != next {
				return errLayout
			}
			next += number(branchKey)
			t.waiting = append(t.waiting, binary.NativeEndian.Uint64(elements[branchPage:]))
			continue
		}
		if from+number(leafPos) != next || number(leafFlags) > leafBucket {
			return errLayout
		}
		next += number(leafKey)
		if number(leafFlags) == leafBucket {
			if err := t.bucket(next); err != nil {
				return err
			}
		}
		next += number(leafValue)
	}
	return nil
}

// bucket notes the page of the bucket whose value begins at an offset.
func (t *trees) bucket(from int64) error {
	var value [bucketHeader]byte
	if _, err := t.file.ReadAt(value[:], from); err != nil {
		return err
	}
	if root := binary.NativeEndian.Uint64(value[:]); root != 0 {
		t.waiting = append(t.waiting, root)
		return nil
	}
	return t.small(from + bucketHeader)
}

// small looks at the page of a small bucket, which is a leaf with records alone.
func (t *trees) small(from int64) error {
	var header [pageHeader]byte
	if _, err := t.file.ReadAt(header[:], from); err != nil {
		return err
	}
	if binary.NativeEndian.Uint16(header[pageFlags:]) != pageIsLeaf {
		return errLayout
	}
	return t.page(from)
}
