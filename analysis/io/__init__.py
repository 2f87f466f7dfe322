"""Tilt series from elsewhere, and results written to files."""
