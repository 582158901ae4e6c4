package must

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestTry(t *testing.T) {
	var ends Ends
	err := Try(func() {
		defer ends.End(func() error { return io.ErrClosedPipe })
		if Get(1, nil) != 1 {
			t.Error("no value")
		}
		Do(nil)
		Get(0, io.EOF)
		t.Error("it went on")
	})
	if !errors.Is(err, io.EOF) || !strings.HasPrefix(err.Error(), "must_test.go:18: ") || !errors.Is(ends.Failed(), io.ErrClosedPipe) {
		t.Errorf("%v, %v", err, ends.Failed())
	}
	if err := Try(func() {}); err != nil {
		t.Error(err)
	}
	defer func() {
		if recover() != "another" {
			t.Error("a panic was taken for a failure")
		}
	}()
	_ = Try(func() { panic("another") })
}
