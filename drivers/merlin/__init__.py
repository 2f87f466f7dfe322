"""Quantum Detectors Merlin."""
