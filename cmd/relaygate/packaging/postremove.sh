#!/bin/sh
# A purge leaves nothing in force. The files of the mail server stay, empty, as it may
# refuse all mail without them, and so does what they held before.
set -e
if [ "$1" = purge ]; then
	rm -rf /var/lib/relaygate
	nft delete table inet relaygate 2>/dev/null || true
fi
