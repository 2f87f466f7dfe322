"""Segmentation of particles, and the necks between them."""
