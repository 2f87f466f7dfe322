"""The analysis pipeline: what is computed from which frame and which series."""
