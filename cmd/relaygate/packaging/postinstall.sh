#!/bin/sh
# A new version takes over from one that runs. Nothing is started for the first
# time: that is the administrator's to say.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart relaygate.service
fi
