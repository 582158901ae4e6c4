package grant

import "math/bits"

// rows is a hash table of small rows without pointers: a slab that grows in
// chunks, and buckets that head chains through the slab. Neither growing nor
// adding ever copies or moves rows, so that a million of them cost no pause and
// no second copy. Rows are named by a number; 0 is none.
type rows[T any, P row[T]] struct {
	chunks []*[chunkRows]T
	used   uint32 // rows of the slab that were ever in use
	free   uint32 // heads the chain of those that are not
	heads  []uint32
	n      int
}

// row is what a rows holds: it keeps its own hash, or can tell it, and lends
// the table a field for the chain.
type row[T any] interface {
	*T
	chain() *uint32
}

const chunkRows = 1024

// perBucket is how many rows a chain has when the buckets are as full as they
// get.
const perBucket = 3

func (r *rows[T, P]) at(i uint32) P { return &r.chunks[(i-1)/chunkRows][(i-1)%chunkRows] }

// bucket is the head of the chain for a hash. The number of buckets need not be
// a power of two: those beyond the last one are still in their lower half.
func (r *rows[T, P]) bucket(hash uint64) *uint32 {
	mask := uint64(1)<<bits.Len(uint(len(r.heads)-1)) - 1
	if b := hash & mask; b < uint64(len(r.heads)) {
		return &r.heads[b]
	}
	return &r.heads[hash&(mask>>1)]
}

// first is the first row of the chain that holds all rows with this hash.
func (r *rows[T, P]) first(hash uint64) uint32 {
	if len(r.heads) == 0 {
		return 0
	}
	return *r.bucket(hash)
}

// add puts a zero row into the chain of hash. hashOf tells the hash of another
// row.
func (r *rows[T, P]) add(hash uint64, hashOf func(P) uint64) uint32 {
	if r.n++; r.n > perBucket*len(r.heads) {
		r.split(hashOf)
	}
	i := r.free
	if i != 0 {
		r.free = *r.at(i).chain()
	} else {
		if r.used%chunkRows == 0 {
			r.chunks = append(r.chunks, new([chunkRows]T))
		}
		r.used++
		i = r.used
	}
	var zero T
	p := r.at(i)
	*p = zero
	head := r.bucket(hash)
	*p.chain(), *head = *head, i
	return i
}

// split adds one bucket and moves there what belongs there (linear hashing).
func (r *rows[T, P]) split(hashOf func(P) uint64) {
	last := len(r.heads)
	r.heads = append(r.heads, 0)
	if last == 0 {
		return
	}
	from, to := &r.heads[last&^(1<<(bits.Len(uint(last))-1))], &r.heads[last]
	for at := from; *at != 0; {
		i := *at
		p := r.at(i)
		if r.bucket(hashOf(p)) != to {
			at = p.chain()
			continue
		}
		*at, *p.chain(), *to = *p.chain(), *to, i
	}
}

// unlink takes row i out of the chain of hash. The row stays readable, and its
// number is in use, until release.
func (r *rows[T, P]) unlink(i uint32, hash uint64) {
	for at := r.bucket(hash); *at != 0; at = r.at(*at).chain() {
		if *at == i {
			*at = *r.at(i).chain()
			r.n--
			return
		}
	}
}

// release lets the number of an unlinked row be used again.
func (r *rows[T, P]) release(i uint32) {
	*r.at(i).chain(), r.free = r.free, i
}
