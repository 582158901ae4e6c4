package line

import "testing"

// TestPrintable tries every octet at every place of pieces of some words.
func TestPrintable(t *testing.T) {
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				b := []byte("abcdefgh~ !}0@Z`\x80\xff\x00\r")[:length]
				b[at] = byte(c)
				want := 0
				for want < length && ' ' <= b[want] && b[want] <= '~' {
					want++
				}
				if got := Printable(b); got != want {
					t.Errorf("%q: %d, want %d", b, got, want)
				}
			}
		}
	}
}
