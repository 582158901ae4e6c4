package state

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Records are CBOR (RFC 8949), which takes a third of JSON's time and half its
// room. Names are kept as they came, UTF-8 or not, and times to the microsecond.
var (
	encoding = mode(cbor.EncOptions{Time: cbor.TimeUnixMicro}.EncMode())
	decoding = mode(cbor.DecOptions{UTF8: cbor.UTF8DecodeInvalid}.DecMode())
)

// mode is for options that are constants.
func mode[T any](m T, err error) T {
	if err != nil {
		panic(err)
	}
	return m
}

// Encode is what v looks like in a record.
func Encode(v any) ([]byte, error) {
	data, err := encoding.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode a record: %w", err)
	}
	return data, nil
}

// Decode reads what Encode wrote into what v points to.
func Decode(data []byte, v any) error {
	if err := decoding.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode a record: %w", err)
	}
	return nil
}
