package authz

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// TestNames compares the set with a map.
func TestNames(t *testing.T) {
	s := names{most: 1 << 20}
	model := map[string]string{}
	rng := rand.New(rand.NewPCG(1, 2))
	shapes := []func(string) string{
		strings.ToLower, strings.ToUpper, strings.ToTitle,
		func(s string) string { return s + "@Example.ORG" },
		func(s string) string { return "JÜRGEN" + s }, func(s string) string { return "jürgen" + s },
		func(s string) string { return strings.Repeat("x", 300) + s }, func(s string) string { return s + "İ\xff" },
	}
	for range 20000 {
		name := shapes[rng.IntN(len(shapes))]("Name" + strconv.Itoa(rng.IntN(300)))
		lower := strings.ToLower(name)
		want, known := model[lower]
		if got := s.get(name); got != want {
			t.Fatalf("%q: got %q, want %q", name, got, want)
		}
		if !known && rng.IntN(2) == 0 {
			model[lower] = name
			s.put(name)
		}
	}
	if s.n != len(model) || s.n < 1000 {
		t.Errorf("%d names, want %d", s.n, len(model))
	}
}

func TestNamesAllocateNothing(t *testing.T) {
	s := names{most: 1 << 20}
	s.put("alice@example.org")
	if n := testing.AllocsPerRun(100, func() { s.put("Alice@Example.org") }); n != 0 {
		t.Errorf("%v allocations for a name that is known", n)
	}
}

// TestNamesRefuseMore: a full set knows what it holds, and counts what it has no
// room for, each time.
func TestNamesRefuseMore(t *testing.T) {
	s := names{most: 1000}
	for range 2 {
		for i := range 1500 {
			s.put("name" + strconv.Itoa(i))
		}
	}
	s.settle()
	if s.n != 1000 || s.refused != 2*500 {
		t.Errorf("%d names and %d refused, want 1000 and 1000", s.n, s.refused)
	}
	if got := s.get("NAME999"); got != "name999" {
		t.Errorf("the last that has room: %q", got)
	}
	if got := s.get("name1000"); got != "" {
		t.Errorf("the first without room: %q", got)
	}
}
