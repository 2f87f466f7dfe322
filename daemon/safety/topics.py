"""What safety tells and hears on the event bus; the trips of rules are in `supervisor.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HeaterLost:
    """The heater no longer sends readings."""

    error: Exception


@dataclass(frozen=True)
class HeaterReconnected:
    """The heater is connected again after it was lost."""


@dataclass(frozen=True)
class RunPrepared:
    """The beam is blanked and the journal of a run is open: its operations begin.

    Attributes
    ----------
    run_file : Path
        The file of the run.
    """

    run_file: Path


@dataclass(frozen=True)
class SupervisorFailed:
    """The supervisor itself has failed and does not protect the specimen any more."""

    problem: str


@dataclass(frozen=True)
class GuardianActed:
    """The guardian made beam and heater safe, or is gone for good: the run must end."""

    reason: str
