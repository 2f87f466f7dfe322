"""Heaters that speak SECoP."""
