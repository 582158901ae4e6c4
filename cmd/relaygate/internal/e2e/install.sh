#!/bin/sh
# Installs Dovecot, without starting it: the tests run their own.
set -eu

if command -v dovecot >/dev/null && [ -x /usr/lib/dovecot/imap-login ] && [ -x /usr/lib/dovecot/pop3-login ]; then
	exit 0
fi

# invoke-rc.d(8) asks policy-rc.d whether it may start a service; 101 forbids it.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends dovecot-imapd dovecot-pop3d
