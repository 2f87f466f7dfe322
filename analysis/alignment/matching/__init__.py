"""Projection matching's inner parts: reprojection of a volume, and the steps that align to it."""
