"""The control server: requests of remote clients."""
