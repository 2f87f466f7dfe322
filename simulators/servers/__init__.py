"""Simulated instruments: one server per wire, all on the same simulated world."""
