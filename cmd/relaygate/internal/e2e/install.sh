#!/bin/sh
# Installs the mail servers of the tests, without starting one: the tests run
# their own. Dovecot and the proxies come to the host. Debian lets no other
# IMAP server stand beside Dovecot, and no mail server beside another, so these
# come to a layer of their own over the host's files (overlayfs), as in a
# container. Two more Dovecots come with other releases of Debian, for the TLS
# libraries that these have.
set -eu

layers=${RELAYGATE_LAYERS:-/var/cache/relaygate-e2e}
export DEBIAN_FRONTEND=noninteractive

# invoke-rc.d(8) asks policy-rc.d whether it may start a service; 101 forbids it.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

updated=
update() {
	[ -n "$updated" ] || apt-get update
	updated=yes
}

# missing tells whether one of the files is not there.
missing() {
	for file; do
		[ -e "$file" ] || return 0
	done
	return 1
}

# layer NAME PACKAGE...: installs packages over the host's files. It is built
# aside and renamed: a layer that is there is whole.
layer() {
	name=$1
	shift
	[ ! -d "$layers/$name" ] || return 0
	rm -rf "$layers/$name.new"
	mkdir -p "$layers/$name.new/upper" "$layers/$name.new/work" "$layers/$name.new/root"
	unshare --mount sh -eu -c '
		root=$1/root
		shift
		mount -t overlay overlay -o "lowerdir=/,upperdir=$root/../upper,workdir=$root/../work" "$root"
		mount --rbind /dev "$root/dev"
		mount --rbind /proc "$root/proc"
		chroot "$root" apt-get install -y --no-install-recommends "$@"
	' sh "$layers/$name.new" "$@"
	mv "$layers/$name.new" "$layers/$name"
}

# release NAME CODENAME: installs Dovecot in a release of Debian of its own.
release() {
	name=$1
	[ ! -d "$layers/$name" ] || return 0
	rm -rf "$layers/$name.new"
	mkdir -p "$layers/$name.new"
	debootstrap --variant=minbase --include=dovecot-imapd,dovecot-pop3d "$2" "$layers/$name.new/system" \
		${RELAYGATE_DEBIAN:+"$RELAYGATE_DEBIAN"} # a mirror of Debian
	rm -rf "$layers/$name.new/system/var/cache/apt" "$layers/$name.new/system/var/lib/apt/lists"
	mv "$layers/$name.new" "$layers/$name"
}

if missing /usr/sbin/dovecot /usr/lib/dovecot/imap-login /usr/lib/dovecot/pop3-login \
	/usr/sbin/nginx /usr/lib/nginx/modules/ngx_mail_module.so \
	/usr/sbin/haproxy /usr/bin/stunnel4 /usr/bin/openssl /usr/bin/python3 /usr/sbin/nft; then
	update
	apt-get install -y --no-install-recommends \
		dovecot-imapd dovecot-pop3d nginx-core libnginx-mod-mail haproxy stunnel4 openssl python3 nftables
fi
if missing "$layers/cyrus" "$layers/courier" "$layers/exim" "$layers/postfix" "$layers/firewalld" "$layers/docker"; then
	update
	layer cyrus cyrus-imapd cyrus-pop3d msmtp-mta
	layer courier courier-imap courier-pop msmtp-mta
	layer exim exim4-daemon-heavy
	layer postfix postfix
	layer firewalld firewalld iptables
	layer docker docker.io iptables
fi
if missing "$layers/debian11" "$layers/debian13"; then
	if missing /usr/sbin/debootstrap; then
		update
		apt-get install -y --no-install-recommends debootstrap
	fi
	release debian11 bullseye
	release debian13 trixie
fi
