package bpf

import (
	"maps"
	"testing"
)

func TestLayout(t *testing.T) {
	old := layout{random: 0x98, pointer: 0xa8, role: 0x38}
	since30 := layout{random: 0x140, role: 0x38}
	since35 := layout{random: 0x168, role: 0x78}
	gnuTLS := layout{random: 0x70}
	for _, tt := range []struct {
		library string
		kind    LibraryKind
		want    layout
	}{
		{"OpenSSL 1.1.1w", OpenSSL, old},
		{"OpenSSL 3.0.13", OpenSSL, since30},
		{"OpenSSL 3.0.20", OpenSSL, since30},
		{"OpenSSL 3.5.9", OpenSSL, since35},
		{"OpenSSL 3.6.5", OpenSSL, since35},
		{"OpenSSL 4.0.3", OpenSSL, since35},
		{"GnuTLS 3.7.1", GnuTLS, gnuTLS},
		{"GnuTLS 3.7.9", GnuTLS, gnuTLS},
		{"GnuTLS 3.8.9", GnuTLS, gnuTLS},
		{"GnuTLS 3.8.13", GnuTLS, gnuTLS},
	} {
		machines := 0
		for _, machine := range []string{"x86-64", "arm64"} {
			code := packagedCode(t, tt.library, machine)
			if len(code.functions) == 0 {
				continue
			}
			machines++
			if got, err := code.layout(tt.kind); got != tt.want || err != nil {
				t.Errorf("%s, %s: %#x, %v, want %#x", tt.library, machine, got, err, tt.want)
			}
		}
		if machines == 0 {
			t.Errorf("%s: no code", tt.library)
		}
	}
}

func TestLayoutOfDoubtfulCode(t *testing.T) {
	const random, server, gnuRandom = "SSL_get_server_random", "SSL_is_server", "gnutls_session_get_random"
	good := map[string]string{
		random:    "48 8d b7 40 01 00 00 c3",    // lea 0x140(%rdi),%rsi
		server:    "8b 47 38 c3",                // mov 0x38(%rdi),%eax
		gnuRandom: "48 8d 47 50 48 83 c7 70 c3", // lea 0x50(%rdi),%rax; add $0x70,%rdi
	}
	for _, kind := range []LibraryKind{OpenSSL, GnuTLS} {
		if _, err := written(tlsMachineX8664, good).layout(kind); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		kind LibraryKind
		code map[string]string
	}{
		{"no code", OpenSSL, map[string]string{random: ""}},
		{"no role", OpenSSL, map[string]string{server: ""}},
		{"no address", OpenSSL, map[string]string{random: "89 f0"}},
		{"two addresses", OpenSSL, map[string]string{random: "48 8d b7 40 01 00 00 48 8d b7 60 01 00 00"}},
		{"two pointers", OpenSSL, map[string]string{random: "48 8b bf a8 00 00 00 48 8b bf b0 00 00 00 48 8d b7 98 00 00 00"}},
		{"two numbers", OpenSSL, map[string]string{server: "8b 47 38 8b 47 3c"}},
		{"only the kind of object", OpenSSL, map[string]string{server: "8b 07"}},
		{"a number of the stack", OpenSSL, map[string]string{server: "8b 44 24 38 8b 45 38"}},
		{"steps through data", OpenSSL, map[string]string{random: "48 83 c7 20"}},
		{"not code", OpenSSL, map[string]string{random: "06 06 06"}},
		{"behind what is not code", OpenSSL, map[string]string{random: "06 48 8d b7 40 01 00 00"}},
		{"one random", GnuTLS, map[string]string{gnuRandom: "48 83 c7 70"}},
		{"not side by side", GnuTLS, map[string]string{gnuRandom: "48 8d 47 48 48 83 c7 70"}},
		{"no such library", 0, nil},
	} {
		code := maps.Clone(good)
		maps.Copy(code, tt.code)
		if l, err := written(tlsMachineX8664, code).layout(tt.kind); err == nil {
			t.Errorf("%s: %#x", tt.name, l)
		}
	}
	if l, err := written(tlsMachineX8664, nil).layout(OpenSSL); err == nil {
		t.Errorf("no functions: %#x", l)
	}
}
