#!/bin/sh
# Called with "upgrade" where a new version comes, which then restarts it.
set -e
[ "$1" = remove ] || exit 0
if [ -d /run/systemd/system ]; then
	systemctl disable --now relaygate.service
fi
# What was closed stays closed: to open a port is the administrator's to say.
if nft list table inet relaygate >/dev/null 2>&1; then
	echo "relaygate: its nftables table stays, as it may be what keeps strangers from relaying." >&2
	echo "relaygate: 'nft delete table inet relaygate' takes it away, and so does purging the package, or a reboot." >&2
fi
