package tlstap

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestParseMaps(t *testing.T) {
	const code = "7f01-7f02 r-xp 00001000 fe:00 77 "
	for _, test := range []struct {
		name, maps string
		want       []mapped
	}{
		{"empty", "", nil},
		{"empty lines", "\n\n", nil},
		{"words", "a b c d e f g\n", nil},
		{"cut", "7f01-7f02 r-xp\n", nil},
		{"not executable", "7f01-7f02 r--p 00001000 fe:00 77 /lib/libssl.so.3\n", nil},
		{"anonymous", "7f01-7f02 r-xp 00000000 00:00 0 \n", nil},
		{"vdso", "7f01-7f02 r-xp 00000000 00:00 0                          [vdso]\n", nil},
		{"no inode", "7f01-7f02 r-xp 00001000 fe:00 0 /lib/libssl.so.3\n", nil},
		{"inode is no number", "7f01-7f02 r-xp 00001000 fe:00 x /lib/libssl.so.3\n", nil},
		{"device is no number", "7f01-7f02 r-xp 00001000 fe00 77 /lib/libssl.so.3\n", nil},
		{"addresses that climb", "../../x-7f02 r-xp 00001000 fe:00 77 /lib/libssl.so.3\n", nil},
		{"addresses without end", "7f01- r-xp 00001000 fe:00 77 /lib/libssl.so.3\n", nil},
		{"longer addresses than there are", "7f01-" + strings.Repeat("0", 17) + " r-xp 00001000 fe:00 77 /lib/libssl.so.3\n", nil},
		{"relative path", code + "lib/libssl.so.3\n", nil},
		{"library", code + "                    /lib/libssl.so.3\n", []mapped{{fileID{0xfe << 32, 77}, "7f01-7f02", "/lib/libssl.so.3"}}},
		{"deleted", code + "/lib/libssl.so.3 (deleted)\n", []mapped{{fileID{0xfe << 32, 77}, "7f01-7f02", "/lib/libssl.so.3 (deleted)"}}},
		{"a path with spaces", code + "/a b\n", []mapped{{fileID{0xfe << 32, 77}, "7f01-7f02", "/a b"}}},
		{"twice", code + "/a\n" + code + "/a\n", []mapped{{fileID{0xfe << 32, 77}, "7f01-7f02", "/a"}}},
		{"two devices", code + "/a\n7f03-7f04 rwxp 0 fe:01 77 /b\n", []mapped{
			{fileID{0xfe << 32, 77}, "7f01-7f02", "/a"}, {fileID{0xfe<<32 | 1, 77}, "7f03-7f04", "/b"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseMaps(strings.NewReader(test.maps))
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
}

func TestParseMapsIsBounded(t *testing.T) {
	var b strings.Builder
	for i := range mappedLimit + 1 {
		fmt.Fprintf(&b, "7f01-7f02 r-xp 00001000 fe:00 %d /lib/%d\n", i+1, i)
	}
	if got, err := parseMaps(strings.NewReader(b.String())); err == nil || len(got) != mappedLimit {
		t.Errorf("%d files, error %v", len(got), err)
	}
	if _, err := parseMaps(strings.NewReader(strings.Repeat("x", mapLineLimit+1))); err == nil {
		t.Error("a line without end is no error")
	}
}

func TestMapsOfThisProcess(t *testing.T) {
	files, err := readMaps("/proc", os.Getpid())
	if err != nil || len(files) == 0 {
		t.Fatalf("got %v, %v", files, err)
	}
	f, err := openMapped("/proc", os.Getpid(), files[0])
	must(t, err)
	defer f.Close()
	img, err := inspect(f)
	if err != nil || !img.goProgram || img.kind != 0 {
		t.Errorf("this program is %+v, %v", img, err)
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add("7f01-7f02 r-xp 00001000 fe:00 77 /lib/libssl.so.3\n")
	f.Fuzz(func(t *testing.T, s string) {
		all, _ := parseMaps(strings.NewReader(s))
		for _, m := range all {
			if strings.Contains(m.span, "/") || m.id.inode == 0 {
				t.Errorf("got %+v", m)
			}
		}
	})
}
