package authz

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// TestNames compares the set with a map.
func TestNames(t *testing.T) {
	var s names
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
			s.put(name, 1<<20)
		}
	}
	if s.n != len(model) || s.n < 1000 {
		t.Errorf("%d names, want %d", s.n, len(model))
	}
}

func TestNamesAllocateNothing(t *testing.T) {
	var s names
	s.put("alice@example.org", 1<<20)
	if n := testing.AllocsPerRun(100, func() { s.put("Alice@Example.org", 1<<20) }); n != 0 {
		t.Errorf("%v allocations for a name that is known", n)
	}
}
