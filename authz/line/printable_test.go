package line

import "testing"

// TestPrintable tries every octet at every place of a word.
func TestPrintable(t *testing.T) {
	for at := range 8 {
		for c := range 256 {
			b := []byte("abcdefgh~ !}0@Z`")
			b[at] = byte(c)
			want := 16
			if c < ' ' || c > '~' {
				want = 0
			}
			if got := printable(b); got != want {
				t.Errorf("octet %#x at %d: %d, want %d", c, at, got, want)
			}
			if got := printable(append([]byte("12345678"), b...)); got != want+8 {
				t.Errorf("octet %#x at %d: %d, want %d", c, 8+at, got, want+8)
			}
		}
	}
	if got := printable([]byte("short")); got != 0 {
		t.Errorf("got %d of a part of a word", got)
	}
}
