// Package bench measures the program against floors, peers and itself, and
// prints one table of goals. It is run by make bench, not by tests.
package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Walk is the floor of a replay: it reads a pcap file of this machine's byte
// order and looks at nothing but the lengths of its records.
func Walk(r io.Reader) (packets, bytes int64, err error) {
	const fileHeader, recordHeader, window = 24, 16, 1 << 20
	buf := make([]byte, window)
	lo, hi := 0, 0
	for begun := false; ; {
		n, err := r.Read(buf[hi:])
		hi += n
		if !begun && hi >= fileHeader {
			begun, lo = true, fileHeader
		}
		for begun && hi-lo >= recordHeader {
			size := recordHeader + int(binary.NativeEndian.Uint32(buf[lo+8:]))
			if size > len(buf) {
				return packets, bytes, fmt.Errorf("record of %d bytes", size)
			}
			if hi-lo < size {
				break
			}
			packets++
			bytes += int64(size - recordHeader)
			lo += size
		}
		hi = copy(buf, buf[lo:hi])
		lo = 0
		if errors.Is(err, io.EOF) {
			return packets, bytes, nil
		}
		if err != nil {
			return packets, bytes, fmt.Errorf("read capture: %w", err)
		}
	}
}
