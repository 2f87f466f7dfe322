"""Child processes, the terminal, pauses of the garbage collector."""
