#!/bin/sh
# Start Redis. The password goes in by standard input: arguments can be read by everybody on the host.
#
# appendfsync always: what it has confirmed is on the disk, so a session that was given is kept over a death.
set -eu
exec redis-server - <<CONF
bind 0.0.0.0
requirepass "$CACHE_PASSWORD"
dir /var/lib/redis
save ""
appendonly yes
appendfsync always
maxmemory 64mb
CONF
