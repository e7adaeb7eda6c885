#!/bin/sh
# Remove Shipkeeper from this host: its services are stopped (in reverse dependency order), the program and the
# units go. State (/var/lib/shipkeeper: volumes, logs, the database) and configuration (/etc/shipkeeper) stay.
#
#   sh deploy/uninstall.sh          keep state and configuration
#   PURGE=1 sh deploy/uninstall.sh  remove them too: all volumes are lost
#
# Safe to run again, also after an installation that failed half-way.
set -eu

[ "$(id -u)" = 0 ] || {
    echo "uninstall.sh: cannot remove /opt/shipkeeper: not root; run it with sudo" >&2
    exit 1
}

if [ -d /run/systemd/system ]; then
    systemctl --quiet disable shipkeeper.service 2>/dev/null || true
    # Stopping the second unit stops the first one too, and ends the services; see README.md.
    if [ "$(systemctl show --property=LoadState --value shipkeeper-services.service)" = loaded ]; then
        systemctl stop shipkeeper-services.service
    fi
fi
rm -f /etc/systemd/system/shipkeeper.service /etc/systemd/system/shipkeeper-services.service \
    /usr/lib/tmpfiles.d/shipkeeper.conf
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl reset-failed 'shipkeeper*' 2>/dev/null || true
fi

[ "$(readlink /usr/local/bin/shipkeeper)" != /opt/shipkeeper/bin/shipkeeper ] || rm -f /usr/local/bin/shipkeeper
# What a daemon that was killed leaves mounted: what the view of the host hides, and volumes with options, which
# may be directories of the host.
for place in /run/shipkeeper/masks/* /run/shipkeeper/masks /run/shipkeeper/mounts/* /run/shipkeeper/mounts; do
    ! mountpoint -q "$place" || umount --lazy "$place"
done
# Networks of services that were not stopped by us: their links and rules carry the name of the state directory.
tag=$(printf %s /var/lib/shipkeeper | sha256sum | cut -c 1-8)
for link in /sys/class/net/*; do
    ! grep -qs "^shipkeeper $tag " "$link/ifalias" || ip link del "${link##*/}" 2>/dev/null || true
done
! command -v nft >/dev/null || nft delete table inet "shipkeeper_$tag" 2>/dev/null || true
for kept in /run/shipkeeper/netns/* /run/shipkeeper/netns; do
    ! mountpoint -q "$kept" || umount --lazy "$kept"
done
rm -rf --one-file-system /opt/shipkeeper /run/shipkeeper

if [ "${PURGE:-0}" = 1 ]; then
    rm -rf /var/lib/shipkeeper /etc/shipkeeper
    ! getent group shipkeeper >/dev/null || groupdel shipkeeper
    echo "shipkeeper, its state and its configuration are removed"
else
    echo "shipkeeper is removed; /var/lib/shipkeeper and /etc/shipkeeper are kept (PURGE=1 removes them)"
fi
