package sockdiag

import (
	"os"
	"testing"
)

func TestParseStat(t *testing.T) {
	const rest = " -1 4194304 100 0 0 0 0 0 0 0 20 0 1 0 1174879 3133440 410 18446744073709551615"
	for _, test := range []struct {
		name, stat string
		want       Stat // zero for an error
	}{
		{"empty", "", Stat{}},
		{"no name", "7988 S 7980 1 1 0" + rest, Stat{}},
		{"name not closed", "7988 (cat S 7980 1 1 0" + rest, Stat{}},
		{"name not opened", "7988 cat) S 7980 1 1 0" + rest, Stat{}},
		{"cut", "7988 (cat) S 7980 1 1 0", Stat{}},
		{"nothing behind the name", "7988 (cat)", Stat{}},
		{"parent is no number", "7988 (cat) S x 1 1 0" + rest, Stat{}},
		{"start is negative", "7988 (cat) S 7980 1 1 0 -1 4194304 100 0 0 0 0 0 0 0 20 0 1 0 -1 3133440 410", Stat{}},
		{"plain", "7988 (cat) R 7980 7980 3103 0" + rest, Stat{"cat", 'R', 7980, 1174879, 3133440}},
		{"a name that looks like the rest", "7988 (x) S 1 1 1 0) Z 7980 7980 3103 0" + rest, Stat{"x) S 1 1 1 0", 'Z', 7980, 1174879, 3133440}},
		{"a line break in the name", "7988 (a\n) b) S 7980 7980 3103 0" + rest, Stat{"a\n) b", 'S', 7980, 1174879, 3133440}},
		{"no name at all", "7988 () S 7980 7980 3103 0" + rest, Stat{"", 'S', 7980, 1174879, 3133440}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseStat([]byte(test.stat))
			if got != test.want || (err != nil) != (test.want == Stat{}) {
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
}

func TestReadStatOfThisProcess(t *testing.T) {
	s, err := ReadStat(os.DirFS("/proc"), os.Getpid())
	if err != nil || s.Parent != os.Getppid() || s.Start == 0 || s.Size == 0 {
		t.Errorf("got %+v, %v", s, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (a) S 1"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseStat(b) })
}
