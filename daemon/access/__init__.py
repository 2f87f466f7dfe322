"""Who may connect and do what: keys, roles, lease, limits of rate."""
