"""The beam on the specimen for one trigger: unblank, trigger, blank, and charge all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ...drivers.base import Beam, Detector
from ...protocols.config.recipe import BeamSettings
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.journal import Exposed
from ..resume.run_journal import Journal
from ..schedule.dose import DoseLedger
from ..schedule.switching import SwitchingTime

Read = TypeVar("Read")


@dataclass(frozen=True)
class Begun:
    """An exposure begins: when, and the fluence of the run until then in e/nm^2."""

    start_ns: int
    charged: float


class ExposureFlag(Protocol):
    """Says whether the beam is on for an exposure; `PlanProgress` in a run."""

    exposing: bool


class ExposureReport(Protocol):
    """Takes what an exposure has to tell; `RunStreams` in a run."""

    def telemetry(self, device: str, values: dict[str, float], t_ns: int) -> None:
        """Send readings of a device."""

    def event(self, level: str, source: str, message: str, **details: Any) -> None:
        """Make an event."""


class ExposureContext(Protocol):
    """What an exposure needs: of a run (`AcquisitionContext`), or of a command without one."""

    @property
    def beam(self) -> Beam:
        """Connected; blanked."""
        ...

    @property
    def detector(self) -> Detector:
        """Connected."""
        ...

    @property
    def settings(self) -> BeamSettings:
        """Current, dwell time and field of the recipe."""
        ...

    @property
    def ledger(self) -> DoseLedger:
        """Fluence so far and its limits."""
        ...

    @property
    def journal(self) -> Journal:
        """Takes every trigger."""
        ...

    @property
    def clock(self) -> ExperimentClock:
        """Time of the exposures."""
        ...

    @property
    def progress(self) -> ExposureFlag:
        """Knows of an exposure under way."""
        ...

    @property
    def out(self) -> ExposureReport:
        """Takes readings and events."""
        ...

    @property
    def switching(self) -> SwitchingTime:
        """How long the beam is on beside exposures."""
        ...

    @property
    def least_on(self) -> SwitchingTime:
        """How long the beam is on where the command that blanks follows the trigger at once."""
        ...

    @property
    def parked_dose_e_per_nm2(self) -> float:
        """Fluence that a trigger is expected to add while the blanker works."""
        ...


class BeamExposure:
    """Exposures of one account of the ledger.

    Parameters
    ----------
    context : ExposureContext
        Beam, detector, ledger and journal.
    account : str
        Stack that is charged.
    dark : bool
        Whether the beam stays blanked.
    at_once : bool
        Whether the beam is blanked without waiting for the end of the exposure, whose last rows
        may then be dark. The specimen receives the least that blanker and trigger allow.
    """

    def __init__(
        self,
        context: ExposureContext,
        account: str,
        *,
        dark: bool = False,
        at_once: bool = False,
    ) -> None:
        self._context, self._account, self._dark = context, account, dark
        self._at_once = at_once

    async def expose(
        self, dose: float, exposed_ns: int, read: Callable[[Begun], Coroutine[Any, Any, Read]]
    ) -> Read:
        """Expose what one trigger starts, and read it meanwhile.

        Whatever happens, the beam is blanked afterwards, and what the specimen has received is
        charged.

        Parameters
        ----------
        dose : float
            Fluence of the exposures themselves, in e/nm^2.
        exposed_ns : int
            Time from the start of the first to the end of the last of them.
        read : callable
            Makes the coroutine that reads the frames; its value is returned.

        Raises
        ------
        DeviceError
            From beam and detector.
        """
        context, clock = self._context, self._context.clock
        reading: asyncio.Task[Read] | None = None
        on_ns, start_ns = clock.now_ns(), None
        try:
            try:
                context.progress.exposing = not self._dark
                on_ns = await self._unblanked(on_ns)
                sent_ns = await context.detector.trigger()
                # The exposure began between the command and its answer: blanking before the answer
                # plus the exposure could cut its last rows off.
                answered_ns = clock.now_ns()
                start_ns = (sent_ns + answered_ns) // 2
                before = self._dose_while_parked(clock.wall_s((start_ns - on_ns) * 1e-9))
                begun = Begun(start_ns, context.ledger.charged + max(0.0, before))
                reading = asyncio.create_task(read(begun), name="frames of a trigger")
                if not self._at_once:
                    await clock.sleep_until_ns(answered_ns + exposed_ns)
                    if not await context.detector.exposed():
                        self._warn_of_late_detector()
            finally:
                await self._blank(on_ns, start_ns, exposed_ns, dose)
            assert reading is not None
            return await reading
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _unblanked(self, asked_ns: int) -> int:
        """Unblank the beam, unless it stays dark; returns when it went on."""
        if self._dark:
            return asked_ns
        await self._context.beam.unblank()
        return self._switched_ns(asked_ns)

    async def _blank(self, on_ns: int, start_ns: int | None, exposed_ns: int, dose: float) -> None:
        """Blank the beam and charge what the specimen has received since it was unblanked."""
        context, settings = self._context, self._context.settings
        asked_ns, off_ns = context.clock.now_ns(), None
        try:
            # Even when cancelled: the specimen is not left under the beam.
            blanked_ns = await asyncio.shield(context.beam.blank())
            off_ns = self._switched_ns(asked_ns)
        finally:
            context.progress.exposing = False
            until_ns = context.clock.now_ns() if off_ns is None else off_ns
            scanned_ns = exposed_ns
            if self._at_once and start_ns is not None:
                scanned_ns = min(exposed_ns, max(0, until_ns - start_ns))
            parked_s = context.clock.wall_s(max(0, until_ns - on_ns - scanned_ns) * 1e-9)
            received = dose * scanned_ns / exposed_ns + self._dose_while_parked(parked_s)
            if off_ns is not None:
                if self._at_once:
                    context.least_on.add(context.clock.wall_s((off_ns - on_ns) * 1e-9))
                else:
                    context.switching.add(parked_s)
                context.journal.note(Exposed(stack=self._account, dose_e_per_nm2=received))
            # Also after an error: how far the exposure got is not known.
            context.ledger.charge(self._account, received)
        blanked = {"blanked": 1.0, "current_pa": settings.current_pa}
        context.out.telemetry("beam", blanked, blanked_ns)

    def _warn_of_late_detector(self) -> None:
        self._context.out.event(
            "warning",
            "engine",
            f"{self._account}: the detector has not said that its exposures are over; the beam is "
            "blanked now, and their last rows may be dark",
        )

    def _dose_while_parked(self, time_s: float) -> float:
        """Fluence, averaged over the field, of so many wall seconds without a scan."""
        return 0.0 if self._dark else self._context.settings.parked_dose_e_per_nm2(time_s)

    def _switched_ns(self, asked_ns: int) -> int:
        """When the blanker has switched, as the driver tells it, or as the time around it does."""
        told, switching = self._context.beam.switched, self._context.switching
        if told is not None and told.sent_ns >= asked_ns:
            return switching.moment_ns(told.sent_ns, told.answered_ns)
        return switching.moment_ns(asked_ns, self._context.clock.now_ns())
