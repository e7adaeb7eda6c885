"""The resolver: answers 127.0.0.11 in the networks of services. A small process that outlives the daemon."""
