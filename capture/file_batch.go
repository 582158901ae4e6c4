package capture

// Batch hands on the next Events, at least one and as many as can be had without
// moving the memory that their payloads lie in. Of a connection that comes to be done
// meanwhile the table of flows passes them over. Its errors are those of Next.
func (f *File) Batch(events []Event) (n int, err error) {
	if f.more(&events[0]) {
		return 1, nil
	}
	f.decoder.done.fresh = 0
	for f.err == nil {
		if n := f.skim(events); n > 0 {
			return n, nil
		}
		if n := f.several(events); n > 0 {
			return n, nil
		}
	}
	return 0, f.err
}

// skim is the way of almost every record: it passes over plain ones that have
// nothing to say and fills in events of those that have, as long as both lie in
// memory. What stopped it one has to read. It is glance for many records, in one
// function: that is a twentieth of the CPU time where most are passed over.
func (f *File) skim(events []Event) (n int) {
	d, rest := f.decoder, f.window.ahead()
	before := len(rest)
	if d.waiting() {
		return 0
	}
	classic, isClassic := f.format.(*pcap) // the compiler then knows whom it calls
	ng, _ := f.format.(*pcapng)
	r := record{second: f.record.second, nanos: f.record.nanos}
	var g glimpse
	for n < len(events) {
		var size int
		if isClassic {
			size = classic.plain(rest, &r)
		} else {
			size = ng.plain(rest, &r)
		}
		if size == 0 {
			break
		}
		found := d.look(r.data, &g)
		if found == unclear {
			break
		}
		rest = rest[size:]
		f.packets++
		if found == silent {
			continue
		}
		passage := d.done.passage(g.hash, g.flags, r.second)
		if passage == passed || passage == passedHeld && !d.compares(r.data, &g) {
			continue
		}
		d.show(&r, &g, &events[n])
		if n++; passage == shownStill {
			break // as of a beginning
		}
	}
	f.record.second, f.record.nanos = r.second, r.nanos
	f.window.skip(before - len(rest))
	return n
}

// several reads records one by one: the first wherever it lies and, if it says
// something, those behind it as far as they lie in memory.
func (f *File) several(events []Event) (n int) {
	for last := false; n < len(events) && !last && f.err == nil; {
		var found bool
		if found, last = f.one(&events[n]); found {
			f.window.pinned = true
			n++
		} else if n == 0 {
			break // there is more in memory now, and quicker ways to read it
		}
	}
	f.window.pinned = false
	return n
}
