"""Frames of the plan and looks of the tracker: beam, detector and stage for each exposure."""
