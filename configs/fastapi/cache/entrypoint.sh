#!/bin/sh
# Start Redis. The password goes in by standard input: arguments can be read by everybody on the host.
set -eu
exec redis-server - <<CONF
bind 127.0.0.1
port $CACHE_PORT
requirepass "$CACHE_PASSWORD"
dir /var/lib/redis
save ""
appendonly yes
maxmemory 64mb
CONF
