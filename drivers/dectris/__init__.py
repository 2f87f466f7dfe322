"""DECTRIS detectors, through the SIMPLON API."""
