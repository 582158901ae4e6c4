// Package must is for measurements, which cannot go on where anything fails: Do and Get
// end what is being measured, Try says why and where, and what was begun is ended by
// deferred calls of Ends.End.
package must

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
)

// failure is what Do and Get panic with.
type failure struct{ error }

func fail(err error) {
	_, file, line, _ := runtime.Caller(2)
	panic(failure{fmt.Errorf("%s:%d: %w", filepath.Base(file), line, err)})
}

// Do goes on if there is no error.
func Do(err error) {
	if err != nil {
		fail(err)
	}
}

// Get is the value, if there is no error.
func Get[T any](v T, err error) T {
	if err != nil {
		fail(err)
	}
	return v
}

// Try does something to its end, or until it fails.
func Try(do func()) (err error) {
	defer func() {
		switch f := recover().(type) {
		case nil:
		case failure:
			err = f.error
		default:
			panic(f)
		}
	}()
	do()
	return nil
}

// Ends collects the errors of what is ended, also where something has failed before.
type Ends struct{ err error }

// End ends something.
func (e *Ends) End(what func() error) { e.err = errors.Join(e.err, what()) }

// Failed are the errors so far.
func (e *Ends) Failed() error { return e.err }
