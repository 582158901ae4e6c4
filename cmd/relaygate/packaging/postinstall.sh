#!/bin/sh
# A new version takes over from one that runs. Nothing is started for the first
# time: that is the administrator's to say.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# A service that does not start is no reason to leave the package half installed.
	systemctl try-restart relaygate.service ||
		echo "relaygate did not start again: journalctl -u relaygate says why" >&2
fi
