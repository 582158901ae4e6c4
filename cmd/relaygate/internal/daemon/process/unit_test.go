package process

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// unit reads the settings of the systemd unit; a name may come more than once.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile("../../../packaging/relaygate.service")
	if err != nil {
		t.Fatal(err)
	}
	settings := make(map[string][]string)
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			settings[name] = append(settings[name], strings.Fields(value)...)
		}
	}
	return settings
}

// The gate stands before a mail server takes its first connection, and is built
// on the rules of the firewalls, which flush what they find.
func TestUnitIsOrdered(t *testing.T) {
	u := unit(t)
	for _, server := range []string{"exim4", "exim", "postfix", "sendmail", "opensmtpd", "dovecot", "cyrus-imapd", "courier-imap"} {
		if !slices.Contains(u["Before"], server+".service") {
			t.Errorf("it does not start before %s", server)
		}
	}
	for _, firewall := range []string{"nftables", "firewalld", "ufw", "netfilter-persistent"} {
		if !slices.Contains(u["After"], firewall+".service") {
			t.Errorf("it does not start after %s", firewall)
		}
	}
	for name, want := range map[string]string{"Type": "notify", "Restart": "on-failure", "WatchdogSec": "30", "Nice": "-10", "LimitNICE": "-10", "WantedBy": "multi-user.target"} {
		if got := strings.Join(u[name], " "); got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
}

// What the daemon keeps the unit must let it have.
func TestUnitGrantsWhatIsKept(t *testing.T) {
	names := map[int]string{
		unix.CAP_NET_ADMIN: "NET_ADMIN", unix.CAP_BPF: "BPF", unix.CAP_SYS_PTRACE: "SYS_PTRACE",
		unix.CAP_DAC_READ_SEARCH: "DAC_READ_SEARCH", unix.CAP_DAC_OVERRIDE: "DAC_OVERRIDE", unix.CAP_CHOWN: "CHOWN",
		unix.CAP_FOWNER: "FOWNER", unix.CAP_PERFMON: "PERFMON", unix.CAP_CHECKPOINT_RESTORE: "CHECKPOINT_RESTORE",
	}
	allowed := unit(t)["CapabilityBoundingSet"]
	for _, c := range slices.Concat(keptCapabilities, tlsCapabilities, []int{unix.CAP_NET_ADMIN}) {
		name, ok := names[c]
		if !ok {
			t.Errorf("capability %d has no name here", c)
		} else if !slices.Contains(allowed, "CAP_"+name) {
			t.Errorf("the unit withholds CAP_%s", name)
		}
	}
}
