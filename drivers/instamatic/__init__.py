"""Stage and beam of JEOL and Thermo Fisher columns, through an instamatic TEM server."""
