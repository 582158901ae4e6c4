package linetest

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// Canary is a password that no output may hold. Its length is divisible by
// three, so that its base64 form is found inside longer texts.
const Canary = "Canary-7f3a91-xyz-"

// Holds reports whether the value shows the canary when it is printed in full,
// as text, as base64 or as octets.
func Holds(v any) bool {
	dump := fmt.Sprintf("%#v", v)
	octets := make([]string, len(Canary))
	for i := range len(Canary) {
		octets[i] = fmt.Sprintf("%#x", Canary[i])
	}
	for _, form := range []string{
		Canary, base64.StdEncoding.EncodeToString([]byte(Canary)), strings.Join(octets, ", "),
	} {
		if strings.Contains(dump, form) {
			return true
		}
	}
	return false
}
