package bpf

import (
	_ "embed"
	"encoding/hex"
	"io"
	"strconv"
	"strings"
	"testing"
)

//go:embed testdata/code.txt
var packaged string

// pieces are what is known of a file, by offset.
type pieces map[int64][]byte

func (p pieces) ReadAt(b []byte, off int64) (int, error) {
	for at, piece := range p {
		if at <= off && off < at+int64(len(piece)) {
			if n := copy(b, piece[off-at:]); n < len(b) {
				return n, io.EOF
			}
			return len(b), nil
		}
	}
	return 0, io.EOF
}

// packagedCode is the code of a library for a machine, without functions if it
// is not among the packages.
func packagedCode(t testing.TB, library, machine string) *machineCode {
	t.Helper()
	file := make(pieces)
	c := &machineCode{machine: tlsMachineX8664, functions: make(map[string]Function), file: file}
	if machine == "arm64" {
		c.machine = tlsMachineARM64
	}
	for line := range strings.Lines(packaged) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 6 || f[0] != library || f[1] != machine {
			continue
		}
		offset, err := strconv.ParseUint(f[3], 16, 64)
		must(t, err)
		size, err := strconv.ParseUint(f[4], 10, 64)
		must(t, err)
		if file[int64(offset)], err = hex.DecodeString(f[5]); err != nil {
			t.Fatal(err)
		}
		if f[2] != "-" {
			c.functions[f[2]] = Function{offset, size}
		}
	}
	return c
}

// written is code by function name.
func written(machine tlsMachine, code map[string]string) *machineCode {
	file := make(pieces)
	c := &machineCode{machine: machine, functions: make(map[string]Function), file: file}
	offset := uint64(0x1000)
	for name, text := range code {
		b := bytesOf(text)
		c.functions[name] = Function{offset, uint64(len(b))}
		file[int64(offset)] = b
		offset += 0x1000
	}
	return c
}

// bytesOf reads hexadecimal numbers.
func bytesOf(text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}
