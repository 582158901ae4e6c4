package hostinfo

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const trackingFolder = "/proc/sys/net/netfilter"

// TrackingFull says how many connections the kernel may track in this network namespace,
// if it has room for hardly any more; 0 if there is room, or it tracks none. Beyond that
// it drops what would open one, also to a port that nobody guards.
func TrackingFull() (most int) { return trackingFull(trackingFolder) }

func trackingFull(folder string) (most int) {
	const nearly = 95 // percent: some come and go at any moment
	read := func(name string) int {
		text, _ := os.ReadFile(filepath.Join(folder, name)) // none where nothing is tracked
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	most = read("nf_conntrack_max")
	if 100*read("nf_conntrack_count") < nearly*most {
		return 0
	}
	return most
}
