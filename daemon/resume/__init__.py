"""The journal of a run, and how an interrupted run is resumed from it."""
