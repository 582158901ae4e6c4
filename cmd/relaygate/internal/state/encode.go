package state

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Records are CBOR (RFC 8949), which takes a third of JSON's time and half its
// room. Names are kept as they came, UTF-8 or not, and times to the microsecond.
var (
	encoding = mode(cbor.EncOptions{Time: cbor.TimeUnixMicro}.UserBufferEncMode())
	decoding = mode(cbor.DecOptions{UTF8: cbor.UTF8DecodeInvalid}.DecMode())
)

// mode is for options that are constants.
func mode[T any](m T, err error) T {
	if err != nil {
		panic(err)
	}
	return m
}

// Encode appends what v looks like in a record to b.
func Encode(b *bytes.Buffer, v any) error {
	if err := encoding.MarshalToBuffer(v, b); err != nil {
		return fmt.Errorf("encode a record: %w", err)
	}
	return nil
}

// Decode reads what Encode wrote into what v points to.
func Decode(data []byte, v any) error {
	if err := decoding.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode a record: %w", err)
	}
	return nil
}
