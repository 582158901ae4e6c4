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

func (w *world) startCyrus(t *testing.T) *server {
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

func (w *world) startCourier(t *testing.T) *server { return w.courier(t, true) }

// courier starts Courier, with or without the ports that begin in TLS.
func (w *world) courier(t *testing.T, implicit bool) *server {
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

const nginxConfig = `
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
daemon off;
user nobody nogroup;
worker_processes 2;
pid %[1]s/nginx.pid;
error_log stderr;
events { worker_connections 2048; }
mail {
  auth_http %[4]s/;
  proxy_pass_error_message on;
  ssl_certificate %[2]s;
  ssl_certificate_key %[3]s;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_ecdh_curve prime256v1;
  ssl_session_cache shared:mail:1m;
  imap_auth plain login;
  pop3_auth plain;
  starttls on;
  server { listen %[5]s:143; listen [%[6]s]:143; protocol imap; }
  server { listen %[5]s:993 ssl; listen [%[6]s]:993 ssl; protocol imap; starttls off; }
  server { listen %[5]s:110; listen [%[6]s]:110; protocol pop3; }
  server { listen %[5]s:995 ssl; listen [%[6]s]:995 ssl; protocol pop3; starttls off; }
}
`

func (w *world) startNginx(t *testing.T) *server {
	t.Helper()
	dir := filepath.Join(w.dir, "nginx")
	config := w.file(t, "nginx/nginx.conf", nginxConfig, dir, w.cert, w.key, w.startAuthHTTP(t), atNginx.v4, atNginx.v6)
	s := w.start(t, "nginx", "", "nginx", "-p", dir, "-c", config, "-e", "stderr")
	w.up(t, s, atNginx.services("nginx"))
	return s
}

// HAProxy ends TLS, for POP3 to begin anew towards Dovecot: it is a client of
// the same library then. It announces nobody, but on one port, where Dovecot and
// relaygate are told the client in a PROXY header.
const haproxyConfig = `
global
  maxconn 2000
  ssl-default-bind-curves P-256
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend imaps
  bind %[2]s:993,[%[3]s]:993 ssl crt %[1]s ssl-min-ver TLSv1.2 allow-0rtt
  default_backend imap
frontend pop3s
  bind %[2]s:995,[%[3]s]:995 ssl crt %[1]s ssl-min-ver TLSv1.2 allow-0rtt
  default_backend pop3
frontend announced
  bind %[4]s:993,[%[5]s]:993 ssl crt %[1]s ssl-min-ver TLSv1.2
  default_backend announced
backend imap
  server dovecot %[6]s:143
backend pop3
  server dovecot %[6]s:995 ssl verify none
backend announced
  server dovecot %[4]s:143 send-proxy-v2
`

func (w *world) startHAProxy(t *testing.T) *server {
	t.Helper()
	config := w.file(t, "haproxy/haproxy.cfg", haproxyConfig, w.both,
		atHAProxy.v4, atHAProxy.v6, atAnnounced.v4, atAnnounced.v6, atBusy.v4)
	s := w.start(t, "haproxy", "", "haproxy", "-db", "-f", config)
	w.up(t, s, append(atHAProxy.implicit("haproxy"), service{"haproxy", atAnnounced, 993, imap, true}))
	return s
}

const stunnelConfig = `
foreground = yes
pid =
cert = %[1]s
sslVersionMin = TLSv1.2
curves = P-256
[imaps4]
accept = %[2]s:993
connect = %[4]s:143
[imaps6]
accept = %[3]s:993
connect = %[4]s:143
[pop3s4]
accept = %[2]s:995
connect = %[4]s:110
[pop3s6]
accept = %[3]s:995
connect = %[4]s:110
`

func (w *world) startStunnel(t *testing.T) *server {
	t.Helper()
	config := w.file(t, "stunnel/stunnel.conf", stunnelConfig, w.both, atStunnel.v4, atStunnel.v6, atBusy.v4)
	s := w.start(t, "stunnel", "", "stunnel4", config)
	w.up(t, s, atStunnel.implicit("stunnel"))
	return s
}

// startAuthHTTP is the program that nginx asks where a client's mailbox is
// (ngx_mail_auth_http_module). It lets every second wrong password pass, so that
// both nginx and the server behind it refuse some.
func (w *world) startAuthHTTP(t *testing.T) string {
	t.Helper()
	var ln net.Listener
	must(t, w.server.Do(func() (err error) {
		ln, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}))
	serveAuthHTTP(t, ln)
	return ln.Addr().String()
}
