package flow

import "testing"

// check verifies what always holds inside a table.
func check(t *testing.T, table *Table) {
	open := checkFlows(t, table)
	checkClients(t, table, open)
	checkTuples(t, table, open)
	checkPool(t, &table.pool)
	checkWaiting(t, &table.waiting)
}

// checkWaiting looks whether the rows lead to what waits, and to nothing else.
func checkWaiting(t *testing.T, w *waiting) {
	if !w.any() {
		return
	}
	linked := 0
	for _, at := range w.rows {
		for ; at != 0; at = w.places[at-1].next {
			if linked++; w.places[at-1].free {
				t.Fatal("a row leads to a free place")
			}
		}
	}
	if linked != w.used {
		t.Fatalf("%d wait, %d in rows", w.used, linked)
	}
}

// checkFlows counts the flows, and looks at their windows.
func checkFlows(t *testing.T, table *Table) (open int) {
	for id := range table.slots.size() {
		f := table.slots.at(id)
		if f.phase == free {
			continue
		}
		open++
		for dir, w := range []*window{f.client, f.server} {
			if w == nil {
				continue
			}
			limit := []int{table.limits.ClientBytes, table.limits.ServerBytes}[dir]
			keeps := dir == 0 && f.conn.Cookie == 0 // what was released
			if !f.reads() || dir == 1 && f.phase != following || !keeps && len(w.spans) == 0 || w.kept > 3*keptBytes+limit || f.phase == following && len(w.spans) > table.limits.Pieces || w.end() > limit {
				t.Fatalf("flow %d keeps a window in phase %d: %d spans, end %d", id, f.phase, len(w.spans), w.end())
			}
			for i, s := range w.spans {
				if s.from >= s.to || i > 0 && w.spans[i-1].to >= s.from {
					t.Fatalf("spans %v", w.spans)
				}
			}
		}
		if w := f.said; w != nil && (!f.reads() || f.origin.Shown() || w.kept > w.head || len(w.spans) > 0) {
			t.Fatalf("flow %d keeps %d of %d bytes that its server said in phase %d", id, w.kept, w.head, f.phase)
		}
		if f.conn.Cookie == 0 && !leads(table, &f.tuple, ref(id)) || f.conn.Cookie != 0 && table.byCookie[f.conn.Cookie] != id {
			t.Fatalf("flow %d is not found under its key", id)
		}
	}
	return open
}

// checkClients counts the flows in the lists of their clients.
func checkClients(t *testing.T, table *Table, open int) {
	listed := 0
	for _, slot := range table.slots.clients.slots {
		if slot == 0 {
			continue
		}
		head := ID(uint32(slot) - 1)
		n := 0
		for next := head + 1; next != 0; next = table.slots.at(next - 1).next {
			n++
		}
		if counted := table.slots.at(head).length; n != counted || n > table.limits.FlowsPerClient {
			t.Fatalf("a client's list has %d flows, counted %d", n, counted)
		}
		listed += n
	}
	if st := table.Stats(); open != st.Open || listed != open || open > table.limits.Flows {
		t.Fatalf("%d flows, %d in lists, %d counted", open, listed, st.Open)
	}
}

// checkTuples looks where the tuples lead.
func checkTuples(t *testing.T, table *Table, open int) {
	known := 0
	for _, slot := range table.tuples.slots {
		if slot == 0 {
			continue
		}
		known++
		if to := ref(uint32(slot) - 1); to&ringBit != 0 && !table.entry(to).used {
			t.Fatal("a tuple leads to a free entry of the ring")
		} else if k := table.tupleOf(to); !leads(table, k, to) {
			t.Fatal("a tuple leads to what has another key")
		}
	}
	if known != table.tuples.used || known > table.limits.Handshakes+open || len(table.ring)*ringPage >= table.limits.Handshakes+ringPage {
		t.Fatalf("%d tuples, counted %d, %d handshakes", known, table.tuples.used, len(table.ring)*ringPage)
	}
}

// leads tells whether a tuple leads to r.
func leads(table *Table, k *tuple, r ref) bool {
	to, found := table.find(k.hash, &k.conn.Client, &k.conn.Server)
	return found && to == r
}

// checkPool looks whether free buffers are bounded and wiped.
func checkPool(t *testing.T, p *pool) {
	if p.held > p.limit {
		t.Fatalf("buffers of %d bytes", p.held)
	}
	for _, class := range p.free {
		for _, buf := range class {
			for _, b := range buf {
				if b != 0 {
					t.Fatal("a free buffer holds bytes of a flow")
				}
			}
		}
	}
}
