"""Stage and beam of Thermo Fisher columns, through a temscript server."""
