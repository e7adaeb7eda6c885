#!/bin/sh
# Start PostgreSQL, after making the database on the first run. Runs as user postgres on a volume that belongs to it.
#
# The cluster is made beside its place and renamed when it is whole: a death half-way (or a restart in the middle of
# it) starts over instead of leaving a database without its tables.
set -eu

data=/var/lib/postgresql/data
new=/var/lib/postgresql/data.new

if [ ! -d $data ]; then
    echo "first start: making the database"
    rm -rf $new
    initdb --pgdata=$new --username=postgres --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=peer --auth-host=scram-sha-256 >/dev/null
    # The server alone, without a port: with -j a statement ends with an empty line.
    quoted=$(printf %s "$DB_PASSWORD" | sed "s/'/''/g")
    postgres --single -j -D $new postgres >/dev/null <<SQL
CREATE ROLE app LOGIN PASSWORD '$quoted';

CREATE DATABASE app OWNER app;

SQL
    postgres --single -j -D $new app >/dev/null </schema.sql
    sync
    mv $new $data
fi

exec postgres -D $data -c listen_addresses="*" -c hba_file=/pg_hba.conf \
    -c unix_socket_directories=/run/postgresql -c shared_buffers=32MB -c max_connections=30
