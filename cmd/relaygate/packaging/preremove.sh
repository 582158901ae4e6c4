#!/bin/sh
# Called with "upgrade" where a new version comes, which then restarts it.
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl disable --now relaygate.service
fi
