#!/bin/sh
# Called with "remove" (deb) or 0 (rpm), or where a new version comes, which then
# restarts it, with something else.
set -e
[ "$1" = remove ] || [ "$1" = 0 ] || exit 0
if [ -d /run/systemd/system ]; then
	systemctl disable --now relaygate.service
fi
# How the files for mail servers were left, as a purge has no configuration any more.
if [ -d /var/lib/relaygate ] && [ -e /etc/relaygate/relaygate.toml ]; then
	sed -nE "s/^[[:space:]]*(files\.)?(relayhosts|users)[[:space:]]*=[[:space:]]*[\"']([^\"']+)[\"'].*/\3/p" \
		/etc/relaygate/relaygate.toml |
		while read -r file || [ -n "$file" ]; do sha256sum "$file" || true; done >/var/lib/relaygate/left
fi
# What was closed stays closed: to open a port is the administrator's to say.
if nft list table inet relaygate >/dev/null 2>&1; then
	echo "relaygate: its nftables table stays, as it may be what keeps strangers from relaying." >&2
	echo "relaygate: 'nft delete table inet relaygate' takes it away, as apt purge or a reboot does." >&2
fi
