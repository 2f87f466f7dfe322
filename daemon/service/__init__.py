"""The daemon process: its devices, its life cycle, its instrument lock."""
