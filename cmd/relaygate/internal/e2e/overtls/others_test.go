//go:build e2e

package overtls

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"relaygate/cmd/relaygate/internal/e2e/layer"
)

// owned makes a directory, and its parents, for an unprivileged user.
func (w *world) owned(t *testing.T, path string, uid int) {
	t.Helper()
	must(t, os.MkdirAll(path, 0o755))
	for ; path != w.dir && filepath.Dir(path) != w.dir; path = filepath.Dir(path) {
		must(t, os.Chown(path, uid, uid))
	}
}

const cyrusConfig = `
configdirectory: %[1]s/lib
proc_path: %[1]s/proc
mboxname_lockpath: %[1]s/lock
defaultpartition: default
partition-default: %[1]s/spool
tls_server_cert: %[2]s
tls_server_key: %[3]s
tls_eccurve: prime256v1
tls_session_timeout: 60
tls_sessions_db_path: %[1]s/lib/tls.db
allowplaintext: yes
sasl_pwcheck_method: saslauthd
sasl_saslauthd_path: %[4]s
sasl_mech_list: PLAIN LOGIN
autocreate_quota: 0
popminpoll: 0
syslog_prefix: cyrus
`

// One process serves thirty clients, one after the other (-U).
const cyrusServices = `
START {
  recover cmd="/usr/lib/cyrus/bin/ctl_cyrusdb -r"
}
SERVICES {
  imap4  cmd="/usr/lib/cyrus/bin/imapd -U 30" listen="%[1]s:143" prefork=1 maxchild=200
  imap6  cmd="/usr/lib/cyrus/bin/imapd -U 30" listen="[%[2]s]:143" prefork=1 maxchild=200
  imaps4 cmd="/usr/lib/cyrus/bin/imapd -s -U 30" listen="%[1]s:993" prefork=1 maxchild=200
  imaps6 cmd="/usr/lib/cyrus/bin/imapd -s -U 30" listen="[%[2]s]:993" prefork=1 maxchild=200
  pop4   cmd="/usr/lib/cyrus/bin/pop3d -U 30" listen="%[1]s:110" prefork=1 maxchild=200
  pop6   cmd="/usr/lib/cyrus/bin/pop3d -U 30" listen="[%[2]s]:110" prefork=1 maxchild=200
  pops4  cmd="/usr/lib/cyrus/bin/pop3d -s -U 30" listen="%[1]s:995" prefork=1 maxchild=200
  pops6  cmd="/usr/lib/cyrus/bin/pop3d -s -U 30" listen="[%[2]s]:995" prefork=1 maxchild=200
}
EVENTS {
}
`

// Cyrus writes below its own root; of the host's files it needs the
// certificate and the socket that checks passwords.
const cyrusScript = `
shared=$1
mkdir -p /var/lib/e2e
cp "$shared/cert.pem" "$shared/key.pem" /var/lib/e2e
for d in lib proc lock spool; do
  mkdir -p /var/lib/e2e/$d
done
chown -R cyrus:mail /var/lib/e2e
cp "$shared/imapd.conf" "$shared/cyrus.conf" /etc
su cyrus -s /bin/sh -c /usr/lib/cyrus/bin/makedirs
exec /usr/sbin/cyrmaster -p /run/cyrmaster.pid
`

func (w *world) startCyrus(t *testing.T) *layer.Server {
	t.Helper()
	dir := filepath.Join(w.dir, "cyrus")
	w.file(t, "cyrus/imapd.conf", cyrusConfig, "/var/lib/e2e", "/var/lib/e2e/cert.pem", "/var/lib/e2e/key.pem", filepath.Join(dir, "mux"))
	w.file(t, "cyrus/cyrus.conf", cyrusServices, atCyrus.v4, atCyrus.v6)
	w.copyCertificate(t, "cyrus")
	startSaslauthd(t, filepath.Join(dir, "mux"))
	s := w.start(t, "cyrus", "cyrus", "sh", "-euc", cyrusScript, "sh", dir)
	w.up(t, s, atCyrus.services("cyrus"))
	return s
}

func (w *world) copyCertificate(t *testing.T, name string) {
	t.Helper()
	for _, path := range []string{w.cert, w.key, w.both} {
		b, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(w.dir, name, filepath.Base(path)), b, 0o644))
	}
}

// startSaslauthd stands in for saslauthd(8): it takes any user with the one
// password. A request is four strings, each behind its length in two octets:
// user, password, service, realm; so is the answer.
func startSaslauthd(t *testing.T, path string) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	must(t, err)
	must(t, os.Chmod(path, 0o777))
	t.Cleanup(func() { must(t, ln.Close()) })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer c.Close()
				var field [4]string
				for i := range field {
					var n uint16
					if binary.Read(c, binary.BigEndian, &n) != nil {
						return
					}
					b := make([]byte, n)
					if _, err := io.ReadFull(c, b); err != nil {
						return
					}
					field[i] = string(b)
				}
				answer := "NO"
				if field[1] == right {
					answer = "OK"
				}
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			}()
		}
	}()
}

// Courier: TLS is done by couriertls (GnuTLS), a process for each connection
// that hands plain text to the server through a socket pair.
const courierScript = `
shared=$1 implicit=$2
shift 2
sed -i 's/^authmodulelist=.*/authmodulelist="authuserdb"/' /etc/courier/authdaemonrc
cp "$shared/userdb" /etc/courier/userdb
chmod 600 /etc/courier/userdb
makeuserdb
for d in new cur tmp; do
  mkdir -p /var/lib/e2e/Maildir/$d
done
chown -R nobody:nogroup /var/lib/e2e
mkdir -p /run/courier/authdaemon
chown -R courier:courier /run/courier
/usr/lib/courier/courier-authlib/authdaemond &
serve() {
  daemon=$1 port=$2 address=$3
  shift 3
  (
    set -a +u # the files ask for variables that may be missing
    . /etc/courier/$daemon
    . /etc/courier/$daemon-ssl
    TLS_CERTFILE=$shared/both.pem
    TLS_CACHEFILE=/run/courier/cache.$port.$address
    TLS_PRIORITY=NORMAL:-GROUP-ALL:+GROUP-SECP256R1
    IMAP_TLS=$tls POP3_TLS=$tls IMAP_STARTTLS=$starttls POP3_STARTTLS=$starttls
    touch $TLS_CACHEFILE
    chown courier $TLS_CACHEFILE
    exec couriertcpd -address=$address -maxprocs=300 -maxperip=300 -nodnslookup -noidentlookup $port "$@"
  ) &
}
lib=/usr/lib/courier/courier
for a; do
  tls=0 starttls=YES
  serve imapd 143 $a $lib/imaplogin /usr/bin/imapd Maildir
  serve pop3d 110 $a $lib/courierpop3login $lib/courierpop3d Maildir
  [ $implicit = true ] || continue
  tls=1 starttls=NO
  serve imapd 993 $a /usr/bin/couriertls -server -tcpd -user=courier $lib/imaplogin /usr/bin/imapd Maildir
  serve pop3d 995 $a /usr/bin/couriertls -server -tcpd -user=courier $lib/courierpop3login $lib/courierpop3d Maildir
done
wait
`

// courierUsers bounds the numbers of clients: Courier has a list of users.
const courierUsers = 20000

func (w *world) startCourier(t *testing.T) *layer.Server { return w.courier(t, true) }

// courier starts Courier, with or without the ports that begin in TLS.
func (w *world) courier(t *testing.T, implicit bool) *layer.Server {
	t.Helper()
	hash, err := exec.Command("openssl", "passwd", "-1", right).Output()
	must(t, err)
	var list strings.Builder
	for i := range courierUsers {
		list.WriteString(user(i) + "\tuid=65534|gid=65534|home=/var/lib/e2e|systempw=" + strings.TrimSpace(string(hash)) + "\n")
	}
	w.file(t, "courier/userdb", "%s", list.String())
	w.copyCertificate(t, "courier")
	s := w.start(t, "courier", "courier", "sh", "-euc", courierScript, "sh", filepath.Join(w.dir, "courier"),
		strconv.FormatBool(implicit), atCourier.v4.String(), atCourier.v6.String())
	w.up(t, s, slices.DeleteFunc(atCourier.services("courier"), func(s service) bool { return s.implicit && !implicit }))
	return s
}
