"""Supervisor, safing, and the guardian process, which is the dead-man watchdog."""
