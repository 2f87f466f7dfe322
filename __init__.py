"""pyrotome: live in-situ heating experiments in electron microscopes."""

__version__ = "0.1.0"
