"""The daemon process: its lifetime, its heater connection, its instrument lock."""
