"""Streams of frames, telemetry and events: to the recorder, the analysis and remote subscribers."""
