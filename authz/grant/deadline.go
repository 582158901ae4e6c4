package grant

// deadlines is a heap of the entries' slots, the earliest deadline first; slots
// of equal deadlines come in the order of their prefixes.
type deadlines struct {
	table *Table
	slots []int32
}

// deadline is when the entry needs attention.
func (e *entry) deadline() int64 {
	if e.open {
		return e.expires
	}
	return e.forget
}

func (d *deadlines) Len() int { return len(d.slots) }

func (d *deadlines) Less(i, j int) bool {
	a, b := &d.table.entries[d.slots[i]], &d.table.entries[d.slots[j]]
	if x, y := a.deadline(), b.deadline(); x != y {
		return x < y
	}
	return string(a.key.addr[:]) < string(b.key.addr[:])
}

func (d *deadlines) Swap(i, j int) {
	d.slots[i], d.slots[j] = d.slots[j], d.slots[i]
	d.table.entries[d.slots[i]].position = int32(i)
	d.table.entries[d.slots[j]].position = int32(j)
}

func (d *deadlines) Push(x any) {
	i := x.(int32)
	d.table.entries[i].position = int32(len(d.slots))
	d.slots = append(d.slots, i)
}

func (d *deadlines) Pop() any {
	n := len(d.slots) - 1
	i := d.slots[n]
	d.slots = d.slots[:n]
	return i
}
