package tlstap

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"relaygate/bpf"
)

// symbol is one of a crafted file's; its code lies at value.
type symbol struct {
	name  string
	value uint64
	kind  elf.SymType
	index elf.SectionIndex
}

func function(name string, value uint64) symbol { return symbol{name, value, elf.STT_FUNC, 1} }

// crafted describes an ELF file: a segment of code at virtual address 0x1000
// that lies at offset 0x400 and is 0x800 long, and a symbol table.
type crafted struct {
	symbols []symbol
	section string              // one more, empty
	change  func(*elf.Header64) // breaks it
	link    uint32              // of the symbol table, 0 for the right one
	size    uint64              // that the symbol table claims, 0 for the right one
	names   uint64              // size that the names claim
}

const codeAddr, codeOffset, codeSize = 0x1000, 0x400, 0x800

func (c crafted) bytes(t testing.TB) []byte {
	t.Helper()
	const headers, sections = 64 + 56, 4
	strs := []byte{0}
	var syms []elf.Sym64
	for _, s := range c.symbols {
		syms = append(syms, elf.Sym64{Name: uint32(len(strs)), Info: uint8(s.kind), Shndx: uint16(s.index), Value: s.value})
		strs = append(append(strs, s.name...), 0)
	}
	names := []byte("\x00.dynsym\x00.dynstr\x00.shstrtab\x00" + c.section + "\x00")
	symsAt := uint64(headers + sections*64)
	symsSize := uint64(len(syms) * elf.Sym64Size)
	strsAt := symsAt + symsSize
	namesAt := strsAt + uint64(len(strs))
	h := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64,
		Phoff: 64, Phentsize: 56, Phnum: 1, Shoff: headers, Shentsize: 64, Shnum: sections, Shstrndx: 3,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(nativeData()), 1
	if c.change != nil {
		c.change(&h)
	}
	table := elf.Section64{Name: 1, Type: uint32(elf.SHT_DYNSYM), Off: symsAt, Size: symsSize, Link: 2, Entsize: elf.Sym64Size}
	if c.link != 0 {
		table.Link = c.link
	}
	if c.size != 0 {
		table.Size = c.size
	}
	strTable := elf.Section64{Name: 9, Type: uint32(elf.SHT_STRTAB), Off: strsAt, Size: uint64(len(strs))}
	if c.names != 0 {
		strTable.Size = c.names
	}
	extra := elf.Section64{Name: 27, Type: uint32(elf.SHT_PROGBITS)}
	shstr := elf.Section64{Name: 17, Type: uint32(elf.SHT_STRTAB), Off: namesAt, Size: uint64(len(names))}
	var b bytes.Buffer
	for _, v := range []any{
		h,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_X | elf.PF_R), Off: codeOffset, Vaddr: codeAddr, Filesz: codeSize, Memsz: codeSize},
		extra, table, strTable, shstr, syms, strs, names,
	} {
		must(t, binary.Write(&b, binary.NativeEndian, v))
	}
	return append(b.Bytes(), make([]byte, 4096)...)
}

var openSSL = []symbol{
	function("SSL_read", codeAddr), function("SSL_write", codeAddr+0x10), function("SSL_read_ex", codeAddr+0x20),
	function("SSL_free", codeAddr+0x30),
}

func TestInspect(t *testing.T) {
	gnu := []symbol{function("gnutls_record_recv", codeAddr), function("gnutls_record_send", codeAddr+1)}
	for _, test := range []struct {
		name string
		file crafted
		want bpf.LibraryKind
		err  bool
	}{
		{"no symbols", crafted{}, 0, false},
		{"other symbols", crafted{symbols: []symbol{function("main", codeAddr)}}, 0, false},
		{"only reads", crafted{symbols: openSSL[:1]}, 0, false},
		{"uses OpenSSL", crafted{symbols: []symbol{
			{"SSL_read", 0, elf.STT_FUNC, elf.SHN_UNDEF}, {"SSL_write", codeAddr, elf.STT_FUNC, elf.SHN_UNDEF},
		}}, 0, false},
		{"no function", crafted{symbols: []symbol{
			{"SSL_read", codeAddr, elf.STT_OBJECT, 1}, {"SSL_write", codeAddr, elf.STT_OBJECT, 1},
		}}, 0, false},
		{"outside of the code", crafted{symbols: []symbol{
			function("SSL_read", codeAddr-1), function("SSL_write", codeAddr+codeSize),
		}}, 0, false},
		{"beyond all addresses", crafted{symbols: []symbol{
			function("SSL_read", math.MaxUint64), function("SSL_write", 1<<63),
		}}, 0, false},
		{"32 bit", crafted{symbols: openSSL, change: func(h *elf.Header64) { h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS32) }}, 0, true},
		{"other byte order", crafted{symbols: openSSL, change: func(h *elf.Header64) { h.Ident[elf.EI_DATA] ^= 3 }}, 0, true},
		{"no ELF", crafted{symbols: openSSL, change: func(h *elf.Header64) { h.Ident[0] = '#' }}, 0, true},
		{"many sections", crafted{symbols: openSSL, change: func(h *elf.Header64) { h.Shnum = math.MaxUint16 }}, 0, true},
		{"many program headers", crafted{symbols: openSSL, change: func(h *elf.Header64) { h.Phnum = math.MaxUint16 }}, 0, true},
		{"sections beyond the end", crafted{symbols: openSSL, change: func(h *elf.Header64) { h.Shoff = 1 << 40 }}, 0, true},
		{"sections beyond all offsets", crafted{symbols: openSSL, change: func(h *elf.Header64) { h.Shoff = math.MaxUint64 }}, 0, true},
		{"program headers beyond all offsets", crafted{symbols: openSSL, change: func(h *elf.Header64) { h.Phoff = 1 << 63 }}, 0, true},
		{"section headers of another size", crafted{symbols: openSSL, change: func(h *elf.Header64) { h.Shentsize = 1 }}, 0, true},
		{"no section names", crafted{symbols: openSSL, change: func(h *elf.Header64) { h.Shstrndx = math.MaxUint16 }}, bpf.OpenSSL, false},
		{"symbols without names", crafted{symbols: openSSL, link: 9}, 0, true},
		{"names beyond the end", crafted{symbols: openSSL, names: 1 << 20}, 0, true},
		{"names without end", crafted{symbols: openSSL, names: math.MaxUint64}, 0, true},
		{"symbols beyond the end", crafted{symbols: openSSL, size: 1 << 16}, 0, true},
		{"symbols without end", crafted{symbols: openSSL, size: math.MaxUint64}, 0, true},
		{"OpenSSL", crafted{symbols: openSSL}, bpf.OpenSSL, false},
		{"GnuTLS", crafted{symbols: gnu}, bpf.GnuTLS, false},
		{"GnuTLS with OpenSSL's names", crafted{symbols: append(gnu, openSSL...)}, bpf.GnuTLS, false},
		{"versions in the names", crafted{symbols: []symbol{
			function("SSL_read@@OPENSSL_3.0.0", codeAddr), function("SSL_write@OPENSSL_1", codeAddr),
		}}, bpf.OpenSSL, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			img, err := inspect(bytes.NewReader(test.file.bytes(t)))
			if img.kind != test.want || (err != nil) != test.err {
				t.Errorf("got %v, %v, want %v", img.kind, err, test.want)
			}
		})
	}
}

func TestInspectOffsets(t *testing.T) {
	img, err := inspect(bytes.NewReader(crafted{symbols: openSSL, section: ".go.buildinfo"}.bytes(t)))
	must(t, err)
	want := map[string]uint64{"SSL_read": codeOffset, "SSL_write": codeOffset + 0x10, "SSL_read_ex": codeOffset + 0x20}
	if len(img.functions) != len(want) {
		t.Errorf("functions are %v, want %v", img.functions, want)
	}
	for name, off := range want {
		if got := img.functions[name]; got.Offset != off {
			t.Errorf("%s is at %#x, want %#x", name, got.Offset, off)
		}
	}
	if !img.goProgram {
		t.Error("a Go program is not known by its section")
	}
	if _, err := inspect(bytes.NewReader(nil)); err == nil {
		t.Error("an empty file is no error")
	}
	foreign := crafted{change: func(h *elf.Header64) { h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS32) }}
	if _, err := inspect(bytes.NewReader(foreign.bytes(t))); !errors.Is(err, errForeign) {
		t.Errorf("error is %v, want %v", err, errForeign)
	}
}

// TestInspectAgreesWithDebugELF compares with the standard library on what is
// installed here.
func TestInspectAgreesWithDebugELF(t *testing.T) {
	var paths []string
	for _, pattern := range []string{
		"/usr/lib/*/libssl.so.*", "/usr/lib64/libssl.so.*", "/usr/lib/*/libgnutls.so.*", "/usr/lib64/libgnutls.so.*", "/usr/lib/*/libc.so.6",
	} {
		found, err := filepath.Glob(pattern)
		must(t, err)
		paths = append(paths, found...)
	}
	if len(paths) == 0 {
		t.Skip("no library is installed to compare with")
	}
	for _, path := range paths {
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		img, err := inspect(f)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		standard, err := elf.NewFile(f)
		must(t, err)
		symbols, err := standard.DynamicSymbols()
		must(t, err)
		functions := 0
		for _, s := range symbols {
			if elf.ST_TYPE(s.Info) != elf.STT_FUNC || s.Section == elf.SHN_UNDEF || !wanted[s.Name] {
				continue
			}
			functions++
			for _, p := range standard.Progs {
				if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && s.Value >= p.Vaddr && s.Value < p.Vaddr+p.Filesz {
					if want := (bpf.Function{Offset: s.Value - p.Vaddr + p.Off, Size: s.Size}); img.functions[s.Name] != want {
						t.Errorf("%s: %s is %+v, want %+v", path, s.Name, img.functions[s.Name], want)
					}
				}
			}
		}
		if functions != len(img.functions) {
			t.Errorf("%s: %d functions, want %d", path, len(img.functions), functions)
		}
		t.Logf("%s: kind %d, %d functions", path, img.kind, functions)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(crafted{symbols: openSSL, section: ".go.buildinfo"}.bytes(f)[:1024])
	f.Add(crafted{symbols: openSSL, size: 1 << 16}.bytes(f)[:1024])
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := inspect(bytes.NewReader(b))
		if err == nil && img.kind != 0 && len(img.functions) < 2 {
			t.Errorf("kind %v with %d functions", img.kind, len(img.functions))
		}
	})
}
