package tlstap

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"relaygate/bpf"
)

// Bounds of what is read of one ELF file (elf(5)). Real files stay far below.
const (
	programLimit = 128      // program headers
	sectionLimit = 1024     // section headers
	namesLimit   = 1 << 16  // bytes of section names
	stringsLimit = 32 << 20 // bytes of symbol names
	symbolsLimit = 1 << 20  // symbols of one table
	symbolLength = 64       // bytes of one name
)

// errForeign says that a file is for another machine than this one, or for
// 32-bit programs on it: their objects are laid out otherwise.
var errForeign = errors.New("no 64-bit ELF file for this machine")

// image is what one ELF file says about TLS.
type image struct {
	kind bpf.LibraryKind // 0: nothing to attach to
	// functions are the TLS functions in the file.
	functions map[string]bpf.Function
	// goProgram is true for programs that the Go toolchain linked.
	goProgram bool
}

// elfFile is a little-endian or big-endian 64-bit file as this machine's.
type elfFile struct {
	r        io.ReaderAt
	order    binary.ByteOrder
	programs []elf.Prog64
	sections []elf.Section64
	names    []byte // of the sections
}

// inspect reads an ELF file of any origin; it takes bounded time and memory.
func inspect(r io.ReaderAt) (image, error) {
	f, err := openELF(r)
	if err != nil {
		return image{}, err
	}
	img := image{functions: make(map[string]bpf.Function)}
	for i := range f.sections {
		s := &f.sections[i]
		switch elf.SectionType(s.Type) {
		case elf.SHT_DYNSYM, elf.SHT_SYMTAB:
			if err := f.symbols(s, img.functions); err != nil {
				return image{}, err
			}
		}
		img.goProgram = img.goProgram || f.name(s) == ".go.buildinfo"
	}
	has := func(name string) bool { _, ok := img.functions[name]; return ok }
	switch {
	case has("gnutls_record_recv") && has("gnutls_record_send"):
		img.kind = bpf.GnuTLS
	case has("SSL_read") && has("SSL_write"):
		img.kind = bpf.OpenSSL
	}
	return img, nil
}

// openELF reads the headers.
func openELF(r io.ReaderAt) (*elfFile, error) {
	var ident [elf.EI_NIDENT]byte
	if _, err := r.ReadAt(ident[:], 0); err != nil {
		return nil, fmt.Errorf("read the ELF header: %w", err)
	}
	if string(ident[:4]) != elf.ELFMAG {
		return nil, errors.New("no ELF file")
	}
	if elf.Class(ident[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(ident[elf.EI_DATA]) != nativeData() {
		return nil, errForeign
	}
	f := &elfFile{r: r, order: binary.LittleEndian}
	if nativeData() == elf.ELFDATA2MSB {
		f.order = binary.BigEndian
	}
	var h elf.Header64
	if err := f.read(&h, 0); err != nil {
		return nil, fmt.Errorf("read the ELF header: %w", err)
	}
	if h.Phentsize != 56 || h.Shnum != 0 && h.Shentsize != 64 || h.Phnum > programLimit || h.Shnum > sectionLimit {
		return nil, fmt.Errorf("unlikely ELF header: %d program headers, %d sections", h.Phnum, h.Shnum)
	}
	f.programs = make([]elf.Prog64, h.Phnum)
	if err := f.read(f.programs, h.Phoff); err != nil {
		return nil, fmt.Errorf("read the program headers: %w", err)
	}
	f.sections = make([]elf.Section64, h.Shnum)
	if err := f.read(f.sections, h.Shoff); err != nil {
		return nil, fmt.Errorf("read the section headers: %w", err)
	}
	if int(h.Shstrndx) < len(f.sections) {
		s := &f.sections[h.Shstrndx]
		f.names = make([]byte, min(s.Size, namesLimit))
		if err := f.read(f.names, s.Off); err != nil {
			return nil, fmt.Errorf("read the section names: %w", err)
		}
	}
	return f, nil
}

func nativeData() elf.Data {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return elf.ELFDATA2LSB
	}
	return elf.ELFDATA2MSB
}

// read fills a value of fixed size from an offset, which may be any number.
func (f *elfFile) read(v any, off uint64) error {
	size := binary.Size(v)
	if size == 0 {
		return nil
	}
	if off > 1<<62 {
		return io.ErrUnexpectedEOF
	}
	return binary.Read(io.NewSectionReader(f.r, int64(off), int64(size)), f.order, v)
}

func (f *elfFile) name(s *elf.Section64) string {
	return text(f.names, s.Name)
}

// text is the string at an offset of a string table, "" if it is none or long.
func text(table []byte, off uint32) string {
	if uint64(off) >= uint64(len(table)) {
		return ""
	}
	b := table[off:]
	end := bytes.IndexByte(b[:min(len(b), symbolLength)], 0)
	if end < 0 {
		return ""
	}
	return string(b[:end])
}

// symbols collects the TLS functions that a symbol table defines.
func (f *elfFile) symbols(table *elf.Section64, functions map[string]bpf.Function) error {
	const size = elf.Sym64Size
	if table.Link >= uint32(len(f.sections)) {
		return errors.New("symbol table without names")
	}
	names := &f.sections[table.Link]
	count := table.Size / size
	if names.Size > stringsLimit || count > symbolsLimit {
		return fmt.Errorf("symbol table too large: %d symbols, %d bytes of names", count, names.Size)
	}
	strs := make([]byte, names.Size)
	if err := f.read(strs, names.Off); err != nil {
		return fmt.Errorf("read the symbols' names: %w", err)
	}
	if !bytes.Contains(strs, []byte("SSL_read")) && !bytes.Contains(strs, []byte("gnutls_record_")) {
		return nil // nearly every file ends here
	}
	block := make([]elf.Sym64, 512)
	for done := uint64(0); done < count; done += uint64(len(block)) {
		block = block[:min(uint64(len(block)), count-done)]
		if err := f.read(block, table.Off+done*size); err != nil {
			return fmt.Errorf("read the symbols: %w", err)
		}
		for i := range block {
			f.function(&block[i], strs, functions)
		}
	}
	return nil
}

// function keeps a symbol if it is a TLS function in this file.
func (f *elfFile) function(sym *elf.Sym64, strs []byte, functions map[string]bpf.Function) {
	if elf.ST_TYPE(sym.Info) != elf.STT_FUNC || elf.SectionIndex(sym.Shndx) == elf.SHN_UNDEF {
		return
	}
	name, _, _ := strings.Cut(text(strs, sym.Name), "@") // SSL_read@@OPENSSL_3.0.0
	if !wanted[name] {
		return
	}
	if off, ok := f.offset(sym.Value); ok {
		functions[name] = bpf.Function{Offset: off, Size: sym.Size}
	}
}

// wanted are the functions of which a tap wants to know where they are.
var wanted = func() map[string]bool {
	names := make(map[string]bool)
	for _, kind := range []bpf.LibraryKind{bpf.OpenSSL, bpf.GnuTLS} {
		for _, name := range slices.Concat(bpf.Functions(kind), bpf.Accessors(kind)) {
			names[name] = true
		}
	}
	return names
}()

// offset finds where in the file the code at an address lies.
func (f *elfFile) offset(addr uint64) (uint64, bool) {
	for _, p := range f.programs {
		executable := elf.ProgType(p.Type) == elf.PT_LOAD && elf.ProgFlag(p.Flags)&elf.PF_X != 0
		if executable && addr >= p.Vaddr && addr-p.Vaddr < p.Filesz && p.Off < 1<<62 {
			return addr - p.Vaddr + p.Off, true
		}
	}
	return 0, false
}
