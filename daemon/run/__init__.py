"""One run: the engine and its operations, acquisition, heater, stage, resuming."""
