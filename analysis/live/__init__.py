"""Coarse models while a tilt series is taken."""
