//go:build e2e

package recipes

// mailServer is one with its default configuration, the recipe of the manual put
// in, and what the test's small world needs: where mail goes, a user, no DNS.
type mailServer struct {
	name string // of the program, its layer and its recipes
	// script gets the folder that is shared with the host, the address that all
	// foreign mail goes to, and the mode.
	script string
}

var (
	exim       = mailServer{"exim", eximScript}
	debianExim = mailServer{"exim", debianEximScript}
	postfix    = mailServer{"postfix", postfixScript}
)

// The default configuration is that of Exim's own distribution. The line of the
// hosts that may relay is the one that the recipe replaces.
const eximScript = `
shared=$1 smarthost=$2
useradd --create-home alice
chmod 1777 /var/mail
ln -sf "$shared/relayhosts" /etc/relayhosts
conf=/etc/exim4/exim4.conf
{
  echo "ROUTER_SMARTHOST = $smarthost"
  echo 'primary_hostname = local.example'
  echo 'log_file_path = /var/log/exim4/%slog'
  sed -e '/^hostlist *relay_from_hosts/{' -e "r $shared/recipe" -e 'd' -e '}' \
      -e 's/^host_lookup = .*/host_lookup =/' \
      -e '/hosts_require_tls = /d' -e '/tls_verify_hosts = /d' -e '/tls_try_verify_hosts = /d' \
      /usr/share/doc/exim4-base/examples/example.conf
} >"$conf"
chown root:Debian-exim "$conf"
chmod 640 "$conf"
tail -F /var/log/exim4/mainlog /var/log/exim4/paniclog 2>/dev/null &
exec exim4 -bdf -q1m
`

// Debian's own configuration takes the list from a macro.
const debianEximScript = `
shared=$1 smarthost=$2
useradd --create-home alice
chmod 1777 /var/mail
ln -sf "$shared/relayhosts" /etc/relayhosts
sed -e 's/^hostlist *relay_from_hosts/MAIN_RELAY_NETS/' "$shared/recipe" >/etc/exim4/exim4.conf.localmacros
cat >/etc/exim4/update-exim4.conf.conf <<END
dc_eximconfig_configtype='smarthost'
dc_other_hostnames='local.example'
dc_local_interfaces=''
dc_readhost=''
dc_relay_domains=''
dc_relay_nets=''
dc_minimaldns='false'
dc_smarthost='$smarthost'
dc_use_split_config='false'
dc_hide_mailname=''
dc_mailname_in_oh='true'
dc_localdelivery='mail_spool'
END
update-exim4.conf
tail -F /var/log/exim4/mainlog /var/log/exim4/paniclog 2>/dev/null &
exec exim4 -bdf -q1m
`

// The recipe of mode redirect is an additional service, all others replace the
// service smtp.
const postfixScript = `
shared=$1 smarthost=$2 mode=$3
useradd --create-home alice
ln -sf "$shared/relayhosts" /etc/relayhosts
postconf -e 'myhostname = local.example' 'mydestination = local.example' "relayhost = [$smarthost]" \
  'maillog_file = /dev/stdout' 'smtpd_peername_lookup = no' 'smtpd_tls_security_level = none' \
  'smtp_tls_security_level = none' 'smtp_host_lookup = native'
if [ "$mode" != redirect ]; then
  postconf -MX smtp/inet
fi
cat "$shared/recipe" >>/etc/postfix/master.cf
newaliases
exec postfix start-fg
`
