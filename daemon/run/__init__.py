"""One run: the engine and its operations, heating, resuming, and making safe."""
