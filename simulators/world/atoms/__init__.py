"""Particles of single atoms, and tilt series of them with known truth."""
