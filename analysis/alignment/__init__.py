"""Alignment of a tilt series: pairwise registration, projection matching, tilt axis."""
