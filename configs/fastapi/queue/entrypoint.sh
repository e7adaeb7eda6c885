#!/bin/sh
# Start RabbitMQ, one node, with the user `app`. What is between nodes stays on the loopback
# interface. Its log is its standard output.
#
# /run/rabbitmq is a tmpfs: the settings with the password are on no disk. The password holds from the first start on,
# when the volume gets its user.
set -eu

umask 077
cat >/run/rabbitmq/rabbitmq.conf <<CONF
listeners.tcp.1 = 0.0.0.0:5672
distribution.listener.interface = 127.0.0.1
default_user = app
default_pass = $QUEUE_PASSWORD
log.console = true
log.console.level = warning
log.file = false
vm_memory_high_watermark.absolute = 300MB
disk_free_limit.absolute = 50MB
CONF

export HOME=/var/lib/rabbitmq \
    RABBITMQ_NODENAME=rabbit@localhost \
    RABBITMQ_CONFIG_FILE=/run/rabbitmq/rabbitmq.conf \
    RABBITMQ_MNESIA_BASE=/var/lib/rabbitmq/mnesia \
    RABBITMQ_LOG_BASE=/run/rabbitmq \
    RABBITMQ_PID_FILE=/run/rabbitmq/pid \
    RABBITMQ_ENABLED_PLUGINS_FILE=/run/rabbitmq/enabled_plugins \
    ERL_EPMD_ADDRESS=127.0.0.1
echo '[].' >/run/rabbitmq/enabled_plugins
exec /usr/lib/rabbitmq/bin/rabbitmq-server
