package live

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
)

// What measures returns no errors, as there is nothing to go on with: check and must end
// the part of the section that is being measured, and attempt says why and where. What a
// part has begun it ends by deferred calls of measure.end.

// failure is what they panic with.
type failure struct{ error }

func fail(err error) {
	_, file, line, _ := runtime.Caller(2)
	panic(failure{fmt.Errorf("%s:%d: %w", filepath.Base(file), line, err)})
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		fail(err)
	}
	return v
}

// attempt runs a part to its end, or until it fails.
func attempt(part func()) (err error) {
	defer func() {
		switch f := recover().(type) {
		case nil:
		case failure:
			err = f.error
		default:
			panic(f)
		}
	}()
	part()
	return nil
}

// end ends something. That this fails is told also where the part did.
func (m *measure) end(what func() error) { m.failed = errors.Join(m.failed, what()) }
