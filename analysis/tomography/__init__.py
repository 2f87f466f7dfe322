"""Projector and reconstruction: SIRT, total variation, weighted back-projection."""
