package bpf

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"testing"
)

// named are places by function, as offsets behind the start of one that is
// exported, or of one that is not if it has no name.
func named(c *machineCode, places map[tlsFunction][]uint64) map[string]uint64 {
	names := make(map[uint64]string)
	for name, f := range c.functions {
		names[f.Offset] = name
	}
	all := make(map[string]uint64)
	for function, offsets := range places {
		for _, offset := range offsets {
			name := map[tlsFunction]string{
				tlsFunctionREAD_EX: "reads", tlsFunctionWRITE_EX: "writes", tlsFunctionWRITE_EX2: "writes2",
			}[function]
			for start := offset; start+10 > offset; start-- {
				if n, ok := names[start]; ok {
					name, offset = n, offset-start
					break
				}
			}
			all[name] = offset
		}
	}
	return all
}

func TestPlaces(t *testing.T) {
	for _, tt := range []struct {
		library, machine string
		kind             LibraryKind
		want             map[string]uint64
	}{
		{"OpenSSL 1.1.1w", "x86-64", OpenSSL, map[string]uint64{"reads": 0x38550, "writes": 0x38810}},
		{"OpenSSL 3.0.13", "x86-64", OpenSSL, map[string]uint64{"reads": 0x36414, "writes": 0x36724}},
		{"OpenSSL 3.0.20", "x86-64", OpenSSL, map[string]uint64{"reads": 0x35290, "writes": 0x355a0}},
		{"OpenSSL 3.5.9", "x86-64", OpenSSL, map[string]uint64{"reads": 0x3e534, "writes2": 0x3e8f4, "SSL_write_ex": 0}},
		{"OpenSSL 3.6.5", "x86-64", OpenSSL, map[string]uint64{
			"SSL_read": 0, "SSL_read_ex": 0, "SSL_write": 0, "SSL_write_ex": 0, "SSL_write_ex2": 0,
		}},
		{"GnuTLS 3.7.9", "x86-64", GnuTLS, map[string]uint64{
			"gnutls_record_recv": 0, "gnutls_record_send": 5, "gnutls_record_send2": 0,
		}},
		{"GnuTLS 3.8.13", "x86-64", GnuTLS, map[string]uint64{
			"gnutls_record_recv": 0, "gnutls_record_send": 9, "gnutls_record_send2": 4,
		}},
		{"OpenSSL 3.0.20", "arm64", OpenSSL, map[string]uint64{"SSL_read": 0, "SSL_read_ex": 0, "SSL_write": 0, "SSL_write_ex": 0}},
		{"GnuTLS 3.8.9", "arm64", GnuTLS, map[string]uint64{
			"gnutls_record_recv": 0, "gnutls_record_send": 0, "gnutls_record_send2": 0,
		}},
	} {
		c := packagedCode(t, tt.library, tt.machine)
		places := c.places(tt.kind)
		if got := named(c, places); !maps.Equal(got, tt.want) {
			t.Errorf("%s, %s: %#x, want %#x", tt.library, tt.machine, got, tt.want)
		}
		if !complete(places) {
			t.Errorf("%s, %s: not complete", tt.library, tt.machine)
		}
	}
}

// TestSharedCode has functions that call one, and some that only seem to.
func TestSharedCode(t *testing.T) {
	const (
		readAt, extendedAt, innerAt = 0x1000, 0x2000, 0x5000

		plain = "48 83 ec 18 31 c0" // sub $0x18,%rsp; xor %eax,%eax
		inner = "41 55 c3"          // push %r13; ret
	)
	for _, tt := range []struct {
		name            string
		plain, extended string // up to the call
		inner           string
		plainCalls      bool
		want            uint64 // where both are probed, 0 for each on its own
	}{
		{"both call it", plain, "48 83 ec 08", inner, true, innerAt},
		{"with endbr64", plain, "f3 0f 1e fa 48 83 ec 08", "f3 0f 1e fa 41 55 c3", true, innerAt + 4},
		{"with a frame", plain, "55 48 89 e5", inner, true, innerAt},
		{"only one calls it", plain, "48 83 ec 08", inner, false, 0},
		{"with other arguments", plain, "48 89 d1", inner, true, 0},
		{"after a branch", plain, "85 d2 78 10", inner, true, 0},
		{"nothing is won", plain, "48 83 ec 08", "48 83 ec 38 c3", true, 0},
		{"nothing is there", plain, "48 83 ec 08", "", true, 0},
	} {
		file := make(pieces)
		c := &machineCode{machine: tlsMachineX8664, functions: make(map[string]Function), file: file}
		put := func(name string, at int64, code string, call bool) {
			b := bytesOf(code)
			if call {
				end := at + int64(len(b)) + 5
				b = binary.LittleEndian.AppendUint32(append(b, 0xe8), uint32(innerAt-end))
			}
			file[at], c.functions[name] = b, Function{uint64(at), uint64(len(b))}
		}
		put("SSL_read", readAt, tt.plain, tt.plainCalls)
		put("SSL_read_ex", extendedAt, tt.extended, true)
		file[innerAt] = bytesOf(tt.inner)
		want := map[tlsFunction][]uint64{tlsFunctionREAD: {readAt}, tlsFunctionREAD_EX: {extendedAt}}
		if tt.want != 0 {
			want = map[tlsFunction][]uint64{tlsFunctionREAD_EX: {tt.want}}
		}
		got := c.places(OpenSSL)
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s: %#x, want %#x", tt.name, got, want)
		}
	}
}

func TestQuickStart(t *testing.T) {
	for _, tt := range []struct {
		name, code string
		want       uint64
	}{
		{"saves a register", "41 55", 0},
		{"endbr64 before that", "f3 0f 1e fa 55", 4},
		{"clears others and leaves", "45 31 c0 31 c9 e9 00 01 00 00", 5},
		{"clears an argument", "31 f6 e9 00 01 00 00", 0},
		{"clears the stack pointer", "31 e4 e9 00 01 00 00", 0},
		{"moves the stack", "f3 0f 1e fa 48 83 ec 18 55", 0},
		{"branches", "f3 0f 1e fa 75 10 55", 0},
		{"calls", "f3 0f 1e fa e8 00 01 00 00", 0},
		{"not code", "f3 0f 1e fa 06", 0},
		{"nothing", "", 0},
	} {
		if got := quickStart(bytesOf(tt.code), argumentsOf[tlsFunctionWRITE]); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// FuzzCode: a server's users may have written what it maps.
func FuzzCode(f *testing.F) {
	for line := range strings.Lines(packaged) {
		if f2 := strings.Split(strings.TrimSpace(line), "\t"); len(f2) == 6 {
			f.Add(bytesOf(f2[5]), bytesOf(f2[5]))
		}
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		const one, two = 0x1000, 0x2000
		for _, machine := range []tlsMachine{tlsMachineX8664, tlsMachineARM64} {
			c := &machineCode{machine: machine, functions: make(map[string]Function), file: pieces{one: a, two: b}}
			for _, kind := range []LibraryKind{OpenSSL, GnuTLS} {
				for i, name := range slices.Concat(Functions(kind), Accessors(kind)) {
					c.functions[name] = Function{one << (i % 2), uint64(len(a))}
				}
				l, err := c.layout(kind)
				if err == nil && (l.random < fieldsFrom || max(l.random, l.pointer, l.role) > 1<<15) {
					t.Errorf("layout %#x", l)
				}
				if places := c.places(kind); !complete(places) {
					t.Errorf("places %#x", places)
				}
			}
		}
	})
}
