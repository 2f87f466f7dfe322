"""The client of the control server."""
