"""Drivers: what a heater, a stage, a beam and a detector are, and the instruments that are one."""
