//go:build e2e

package overtls

import (
	"net"
	"path/filepath"
	"testing"

	"relaygate/cmd/relaygate/internal/e2e/layer"
)

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

func (w *world) startNginx(t *testing.T) *layer.Server {
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
frontend tenant
  bind %[2]s:%[7]d ssl crt %[1]s ssl-min-ver TLSv1.2
  default_backend tenant
frontend announced
  bind %[4]s:993,[%[5]s]:993 ssl crt %[1]s ssl-min-ver TLSv1.2
  default_backend announced
backend imap
  server dovecot %[6]s:143
backend pop3
  server dovecot %[6]s:995 ssl verify none
backend tenant
  server tenant %[8]s
backend announced
  server dovecot %[4]s:143 send-proxy-v2
`

func (w *world) startHAProxy(t *testing.T) *layer.Server { return w.startHAProxyFor(t, "127.0.0.1:9") }

// startHAProxyFor also ends TLS for a tenant's server.
func (w *world) startHAProxyFor(t *testing.T, tenant string) *layer.Server {
	t.Helper()
	config := w.file(t, "haproxy/haproxy.cfg", haproxyConfig, w.both,
		atHAProxy.v4, atHAProxy.v6, atAnnounced.v4, atAnnounced.v6, atBusy.v4, tenantPort, tenant)
	s := w.start(t, "haproxy", "", "haproxy", "-db", "-f", config)
	w.up(t, s, append(atHAProxy.implicit("haproxy"), service{"haproxy", atAnnounced, 993, imap, true}))
	return s
}

// balancer is the one server that runs on another host: it passes TLS on, unread,
// behind a PROXY header of version 2 or 1.
const (
	balancer = "balancer"

	balancerConfig = `
global
  maxconn 2000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend imaps
  bind %[1]s:993,[%[2]s]:993
  default_backend imaps
frontend pop3s
  bind %[1]s:995,[%[2]s]:995
  default_backend pop3s
backend imaps
  server dovecot %[3]s:993 send-proxy-v2
backend pop3s
  server dovecot %[3]s:995 send-proxy
`
)

func (w *world) startBalancer(t *testing.T) *layer.Server {
	t.Helper()
	config := w.file(t, "balancer/haproxy.cfg", balancerConfig, atBalancer.v4, atBalancer.v6, atPassed.v4)
	s := w.start(t, balancer, "", "haproxy", "-db", "-f", config)
	w.up(t, s, atBalancer.implicit(balancer))
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

func (w *world) startStunnel(t *testing.T) *layer.Server {
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
