package capture

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

var errBehindGzip = errors.New("what follows the compressed file is not of gzip")

// gzipMagic begins a member of a gzip file (RFC 1952 §2.3.1).
const gzipMagic = "\x1f\x8b"

func isGzip(r *bufio.Reader) bool {
	magic, err := r.Peek(len(gzipMagic))
	return err == nil && string(magic) == gzipMagic
}

// unzipper reads a gzip file of several members (RFC 1952 §2.2). Zeros may follow
// them, as gzip(1) has it: a medium of fixed blocks is filled up so.
type unzipper struct {
	r *bufio.Reader
	z *gzip.Reader
}

func newUnzipper(r *bufio.Reader) (*unzipper, error) {
	z, err := gzip.NewReader(r)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("gzip header %w", errShort)
	}
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &unzipper{r, z}, nil
}

func (u *unzipper) Read(b []byte) (int, error) {
	for {
		n, err := u.z.Read(b)
		switch {
		case !errors.Is(err, io.EOF):
			return n, err
		case n > 0:
			return n, nil // the end of the member is told again
		}
		if !isGzip(u.r) {
			return 0, u.end()
		}
		if err := u.z.Reset(u.r); err != nil {
			return 0, err
		}
		u.z.Multistream(false)
	}
}

// end returns io.EOF if nothing but zeros follows.
func (u *unzipper) end() error {
	for {
		c, err := u.r.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return errBehindGzip
		}
	}
}
