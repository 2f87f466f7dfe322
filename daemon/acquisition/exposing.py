"""Expose in a command that is no run: what `BeamExposure` needs, without streams and journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...drivers.base import Beam, Detector
from ...protocols.config.recipe import BeamSettings, Recipe
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.journal import Entry
from ..safety.devices import Devices
from ..schedule.dose import DoseLedger
from ..schedule.switching import LEAST_ON_S, SwitchingTime


@dataclass
class Exposing:
    """Exposures of a command; it is its own journal, which keeps nothing, and its own report.

    Attributes
    ----------
    beam, detector, settings, ledger, clock, switching, least_on
        See `ExposureContext`.
    said : callable
        Takes the text of an event.
    exposing : bool
        Whether the beam is on for an exposure.
    """

    beam: Beam
    detector: Detector
    settings: BeamSettings
    ledger: DoseLedger
    clock: ExperimentClock
    said: Callable[[str], None]
    switching: SwitchingTime = field(default_factory=SwitchingTime)
    least_on: SwitchingTime = field(default_factory=lambda: SwitchingTime(LEAST_ON_S))
    exposing: bool = False

    @classmethod
    def of(
        cls,
        devices: Devices,
        clock: ExperimentClock,
        recipe: Recipe,
        said: Callable[[str], None],
    ) -> Exposing:
        """With connected devices, by the beam and within the limits of a recipe.

        Parameters
        ----------
        devices : Devices
            Of a daemon.
        clock : ExperimentClock
            Its clock.
        recipe : Recipe
            Whose beam and limits hold.
        said : callable
            Takes the text of an event.
        """
        limits = recipe.limits
        ledger = DoseLedger(limits.dose_e_per_nm2, limits.dose_per_series_e_per_nm2)
        return cls(devices.beam, devices.detector, recipe.beam, ledger, clock, said)

    @property
    def journal(self) -> Exposing:
        """Takes entries that nobody needs: nothing is resumed."""
        return self

    @property
    def progress(self) -> Exposing:
        """Has `exposing`."""
        return self

    @property
    def out(self) -> Exposing:
        """Takes readings and events."""
        return self

    @property
    def parked_dose_e_per_nm2(self) -> float:
        """Fluence that a trigger is expected to add while the blanker works."""
        return self.settings.parked_dose_e_per_nm2(self.switching.expected_s)

    def note(self, entry: Entry) -> None:
        """Drop an entry of the journal."""

    async def caught_up(self) -> None:
        """Nothing is written that could be waited for."""

    def save(self) -> None:
        """Nothing is written that could be flushed."""

    def telemetry(self, device: str, values: dict[str, float], t_ns: int) -> None:
        """Drop readings."""

    def event(self, level: str, source: str, message: str, **details: Any) -> None:
        """Tell an event."""
        self.said(message)
