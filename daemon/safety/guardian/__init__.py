"""The guardian: a dead-man watchdog process that makes beam and heater safe without the daemon.

``python -m pyrotome.daemon.safety.guardian [HEATER_DRIVER BEAM_DRIVER]`` reads a `GuardianConfig`
and then heartbeats from standard input, both written by `guardian_handle.GuardianHandle`. It acts

- when standard input ends without an orderly end: the daemon has died, or has ended while beam or
  heater had not confirmed that they are safe;
- when no heartbeat comes for the rig's ``guardian.timeout``: the daemon's event loop is blocked.
  The daemon is killed first, so that it cannot wake up and heat again.

Then the beam is blanked and the heater brought to its safe level. The guardian uses connections of
its own and tries again until both have confirmed.

The process starts with the standard library alone, so that it watches early: drivers, and what
they need, are imported by `devices.py` once their names are known.
"""
