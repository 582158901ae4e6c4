package nft

import (
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func TestElementsDecodeAsEncoded(t *testing.T) {
	want := []member{
		{allow6, netip.MustParseAddr("2001:db8::1"), time.Hour, time.Minute},
		{allow6, netip.MustParseAddr("2001:db8::2"), MaxTimeout, MaxTimeout},
		{allow6, netip.MustParseAddr("2001:db8::3"), tick, tick},
	}
	messages := memberMessages(nil, unix.NFT_MSG_NEWSETELEM, own, want)
	got, err := parseElements(messages[0])
	if err != nil || len(messages) != 1 || len(got) != len(want) {
		t.Fatalf("got %v, %v in %d messages", got, err, len(messages))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %v, want %v", got[i], want[i])
		}
	}
}

// Nothing in a message makes the daemon fall over.
func FuzzDecode(f *testing.F) {
	batch, err := declare(Config{Mode: Filter, Ports: []uint16{25}, IPv6Prefix: 64, Brakes: Brakes{1, 1}}, 10).messages(tableMessages(own), own)
	must(f, err)
	batch = memberMessages(batch, unix.NFT_MSG_NEWSETELEM, own, []member{{allow4, member4, time.Hour, time.Minute}})
	for _, m := range batch {
		f.Add(uint16(m.Header.Type), m.Data)
	}
	f.Add(uint16(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN), []byte("\x00\x00\x00\x00\x08\x00\x02\x00\x00\x00\x04\xd2\x08\x00\x03\x00nft\x00"))
	f.Add(uint16(0), append([]byte{unix.AF_INET, 0, 0, 0}, trackedFilter(netip.MustParsePrefix("192.0.2.1/32"), []uint16{25})...))
	f.Add(uint16(0), make([]byte, diagMsgSize))
	f.Add(uint16(0), []byte{})
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		m := netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind)}, Data: data}
		_ = author(m)
		_, _ = parseCounter(m)
		_, _, _ = parseSet(m)
		_, _ = parseTracked(m)
		_, _, _ = parseSocket(data)
		_ = parseComment(data)
		_ = (&Watch{table: own, sets: []string{allow4}}).member(m)
		_, _ = inventoryOf([]netlink.Message{m}, own)
		members, err := parseElements(m)
		if err != nil {
			return
		}
		for _, m := range members {
			if !m.key.IsValid() || m.remaining <= 0 && m.timeout <= 0 || m.remaining != forever && m.remaining > m.timeout {
				t.Errorf("got %+v", m)
			}
		}
	})
}
