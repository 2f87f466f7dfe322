"""The event bus, child processes, the terminal, pauses of the garbage collector."""
