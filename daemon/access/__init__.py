"""Access to the daemon from outside: keys, roles, the control lease, rate limits, connections."""
