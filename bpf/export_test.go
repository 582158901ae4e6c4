package bpf

import "testing"

// Randoms counts the server randoms that are kept.
func (t *Tap) Randoms(tb testing.TB) int {
	tb.Helper()
	var random [32]byte
	var origin tapOrigin
	n := 0
	all := t.objs.Randoms.Iterate()
	for all.Next(&random, &origin) {
		n++
	}
	if err := all.Err(); err != nil {
		tb.Fatal(err)
	}
	var cookie uint64
	all = t.objs.Hellos.Iterate()
	for all.Next(&cookie, &random) {
		n++
	}
	if err := all.Err(); err != nil {
		tb.Fatal(err)
	}
	return n
}

// AttachLibraryByPerf is AttachLibrary on a kernel before 6.6.
func (t *Tap) AttachLibraryByPerf(lib Library) (*LibraryProbes, error) {
	return t.attachLibrary(lib, false)
}

// Calls counts the calls that are under way.
func (t *Tap) Calls(tb testing.TB) int {
	tb.Helper()
	var thread uint64
	var call tapCall
	n := 0
	all := t.objs.Calls.Iterate()
	for all.Next(&thread, &call) {
		n++
	}
	if err := all.Err(); err != nil {
		tb.Fatal(err)
	}
	return n
}
