"""Supervisor, safing, and the guardian process (the dead-man watchdog)."""
