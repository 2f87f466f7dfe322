"""Tracking on the engine's side: the table of the tracker, and what is done by it."""
