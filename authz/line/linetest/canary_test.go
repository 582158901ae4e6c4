package linetest

import "testing"

func TestHolds(t *testing.T) {
	text := []byte("x" + Canary)
	for _, v := range []any{
		Canary,
		struct{ b []byte }{text},
		struct{ b [len(Canary)]byte }{[len(Canary)]byte([]byte(Canary))},
		struct{ s *[]string }{nil},
		&struct{ s string }{Canary},
	} {
		want := true
		if s, ok := v.(struct{ s *[]string }); ok {
			want = s.s != nil
		}
		if got := Holds(v); got != want {
			t.Errorf("Holds(%#v) = %v, want %v", v, got, want)
		}
	}
}
