"""One experiment: engine, acquisition, heater, steering."""
