"""Client of the control server and of the monitor; the base of command line and web page."""
