package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// decode turns the library's errors into ours, one per mistake.
func decode(name string, data []byte, r *raw) error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(r)
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var errs []error
		for i := range strict.Errors {
			errs = append(errs, decodeError(name, &strict.Errors[i], errors.New("unknown key")))
		}
		return errors.Join(errs...)
	}
	if d, ok := errors.AsType[*toml.DecodeError](err); ok {
		return decodeError(name, d, inWords(data, d))
	}
	if err != nil {
		return &Error{File: name, Err: err}
	}
	return nil
}

// inWords says what is wrong in words of the file: those of the library are about the
// program's types.
func inWords(data []byte, d *toml.DecodeError) error {
	line, _ := d.Position()
	if first := before(data, line); first > 0 && strings.Contains(d.Error(), "already") { // no type of the library's says it
		return fmt.Errorf("stands in line %d already: write it once", first)
	}
	if key := strings.Join(d.Key(), "."); key != "" {
		if byDefault := valueIn(DefaultFile, keyLines(DefaultFile)[key]); byDefault != "" {
			return fmt.Errorf("is of another kind than its default, which is %s", byDefault)
		}
		return errors.New("is of another kind than relaygate knows")
	}
	hint := ""
	if value := valueIn(data, line); value != "" && (value[0] == '/' || unicode.IsLetter(rune(value[0]))) {
		hint = ": text stands in quotation marks"
	}
	return errors.New("this line is no TOML (" + strings.TrimPrefix(d.Error(), "toml: ") + ")" + hint)
}

// before is the number of the last line before one that names the same key or table,
// 0 if there is none.
func before(data []byte, number int) int {
	var names []string
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		name, _, _ := strings.Cut(line, "=")
		names = append(names, strings.TrimSpace(name))
	}
	if number < 1 || number > len(names) {
		return 0
	}
	for n := number - 1; n > 0; n-- {
		if names[n-1] == names[number-1] {
			return n
		}
	}
	return 0
}

// valueIn is what a line of a file, by its number from 1, sets its key to.
func valueIn(data []byte, number int) string {
	lines := strings.Split(string(data), "\n")
	if number < 1 || number > len(lines) {
		return ""
	}
	line, _, _ := strings.Cut(lines[number-1], "#")
	_, value, _ := strings.Cut(line, "=")
	return strings.TrimSpace(value)
}

func decodeError(name string, d *toml.DecodeError, err error) *Error {
	line, _ := d.Position()
	return &Error{File: name, Line: line, Key: strings.Join(d.Key(), "."), Err: err}
}

// keyLines finds the line of each key of a file that has already been decoded
// without an error.
func keyLines(data []byte) map[string]int {
	lines := make(map[string]int)
	var p unstable.Parser
	p.Reset(data)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.KeyValue {
			continue
		}
		var parts []string
		line := 0
		for it := e.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
			line = p.Shape(it.Node().Raw).Start.Line
		}
		key := strings.Join(parts, ".")
		if e.Kind == unstable.Table {
			table = key + "."
			continue
		}
		lines[table+key] = line
	}
	return lines
}
