"""One module for each file format of tilt series."""
