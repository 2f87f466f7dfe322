"""What a run file is made of, and the scouts in it; the rest of the run file stands on it."""
