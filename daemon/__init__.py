"""The daemon: plan, engine, recorder, streams, control and the command line."""
