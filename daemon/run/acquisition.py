"""Expose the frames of one stack: credit, beam, trigger, read, stamp, send. The way of every frame.

One trigger starts one frame, or several where the stage stays and a frame is short: then the beam
stays on for at most `BURST_S`. A frame belongs where the detector's own number puts it; numbers
that are left out are recorded as missing.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...drivers.base import DetectorFrame, DeviceLost
from ...protocols.messages.journal import Exposed, Trigger
from ...protocols.messages.manifest import StackPlan

if TYPE_CHECKING:
    from .engine import Engine

# Frames lost one after the other before the detector is given up.
_LOST_IN_A_ROW = 3
# The longest time for which one trigger exposes: an abort need not wait longer.
BURST_S = 0.25


def frames_per_trigger(
    tilt_deg: tuple[float, ...],
    exposure_s: float,
    most: int,
    places: Sequence[int] | None = None,
) -> int:
    """How many frames one trigger may start in a stack.

    Parameters
    ----------
    tilt_deg : tuple of float
        Asked angle of each frame; a trigger's frames have the same.
    exposure_s : float
        Of one frame; several must fit into `BURST_S`.
    most : int
        Not more than these.
    places : sequence of int, optional
        Frames to be taken, where not all are; a trigger's follow each other.

    Returns
    -------
    int
        A divisor of the number of frames at every angle, 1 at least.
    """
    taken = range(len(tilt_deg)) if places is None else places
    # Of places that follow each other, position and place differ by the same.
    alike = ((tilt_deg[place], place - position) for position, place in enumerate(taken))
    together = math.gcd(*(len(list(group)) for _, group in itertools.groupby(alike)))
    largest = max(1, min(most, int(BURST_S / exposure_s)))
    return max(n for n in range(1, min(largest, together) + 1) if together % n == 0)


@dataclass(frozen=True)
class _Trigger:
    """What its frames share: position of the first, when that began, and the fluence before it."""

    first: int
    start_ns: int
    charged: float


class StackAcquisition:
    """The exposures of one stack: dose reserved, detector armed, and both undone at the end.

    Parameters
    ----------
    engine : Engine
        Whose devices, ledger and outlet are used.
    stack : StackPlan
        What to expose.
    at_a_time : int
        Frames that each trigger starts.
    places : sequence of int, optional
        Which frames of the stack to expose, in order; all if absent. A position is one in these.
    """

    def __init__(
        self,
        engine: Engine,
        stack: StackPlan,
        at_a_time: int = 1,
        places: Sequence[int] | None = None,
    ) -> None:
        self.engine, self.stack, self.at_a_time = engine, stack, at_a_time
        self.places = range(stack.frames) if places is None else places
        # Position of the frame that the detector numbers 1.
        self._base = 0
        self._period_ns = 0
        self._lost_in_a_row = 0

    async def __aenter__(self) -> StackAcquisition:
        engine, stack = self.engine, self.stack
        # Armed first: only then are the pauses known, and with them the dose.
        await self._arm(0)
        triggers = len(self.places) // self.at_a_time
        dose = triggers * self._dose_of(self.at_a_time)
        engine.ledger.reserve(stack.name, dose, stack.kind == "series")
        return self

    async def _arm(self, base: int) -> None:
        """Prepare the frames from a position on."""
        beam = self.engine.plan.recipe.beam
        await self.engine.devices.detector.arm(
            max(self.at_a_time, len(self.places) - base),
            beam.exposure_s,
            beam.frame,
            self.at_a_time,
        )
        self._base = base
        self._period_ns = int(
            max(beam.exposure_s, self.engine.devices.detector.period_s(beam.exposure_s)) * 1e9
        )

    def _dose_of(self, frames: int) -> float:
        """Fluence that so many frames of one trigger cost, with the pauses between them."""
        beam = self.engine.plan.recipe.beam
        pauses = (self._period_ns * 1e-9 / beam.exposure_s - 1) * (frames - 1)
        return beam.dose_per_frame_e_per_nm2 * (frames + max(0.0, pauses))

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.engine.ledger.release(self.stack.name)
        # After an error or an abort, safing stops the detector.
        if kind is None:
            await self.engine.devices.detector.disarm()

    def triggers(self) -> Iterator[tuple[int, float]]:
        """First position and angle of every trigger."""
        for first in range(0, len(self.places), self.at_a_time):
            yield first, self.stack.tilt_deg[self.places[first]]

    async def expose(self, first: int) -> None:
        """Expose the frames of one trigger and send them on.

        Parameters
        ----------
        first : int
            Position of the first of them.

        Raises
        ------
        DeviceError
            From beam and detector; from the latter only after several losses in a row.
        """
        engine, beam = self.engine, self.engine.plan.recipe.beam
        devices, clock, count = engine.devices, engine.clock, self.at_a_time
        exposure_ns = int(beam.exposure_s * 1e9)
        dose = self._dose_of(count)
        await engine.room(self.at_a_time)
        engine.journal.note(
            Trigger(
                stack=self.stack.name, first=self.places[first], count=count, dose_e_per_nm2=dose
            )
        )
        # Nothing is exposed of which a later day would not know.
        await engine.journal.caught_up()
        reading: asyncio.Task[DeviceLost | None] | None = None
        try:
            try:
                engine.exposing = True
                await devices.beam.unblank()
                sent_ns = await devices.detector.trigger()
                # The exposure began between the command and its answer: blanking before the answer
                # plus the exposure could cut its last rows off.
                answered_ns = clock.now_ns()
                begun = _Trigger(first, (sent_ns + answered_ns) // 2, engine.ledger.charged)
                reading = asyncio.create_task(self._receive(begun), name="frames of a trigger")
                await clock.sleep_until_ns(
                    answered_ns + (count - 1) * self._period_ns + exposure_ns
                )
            finally:
                try:
                    # Even when cancelled: the specimen is not left under the beam.
                    blanked_ns = await asyncio.shield(devices.beam.blank())
                    engine.journal.note(Exposed(stack=self.stack.name))
                finally:
                    engine.exposing = False
                    # Also where nothing came of it: how far it got, nobody knows.
                    engine.ledger.charge(self.stack.name, dose)
            blanked = {"blanked": 1.0, "current_pa": beam.current_pa}
            engine.out.telemetry("beam", blanked, blanked_ns)
            assert reading is not None
            lost = await reading
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        if lost is None:
            self._lost_in_a_row = 0
        else:
            await self._begin_anew(first + count, lost)

    async def _receive(self, trigger: _Trigger) -> DeviceLost | None:
        """Take the frames of one trigger as they come and send them on.

        Returns
        -------
        DeviceLost or None
            Why some did not come; they have been told as lost.
        """
        detector = self.engine.devices.detector
        due, end = trigger.first, trigger.first + self.at_a_time
        while due < end:
            try:
                frame = await detector.read_frame()
            except DeviceLost as error:
                self._lose(range(due, end), trigger, str(error))
                return error
            index = self._base + frame.number - 1
            if index < due:
                again = f"the detector sent its frame {frame.number} again; not recorded"
                self._warn(f"frame {self.places[due]}: {again}")
                continue
            told = f"the detector numbers the next one {frame.number}"
            self._lose(range(due, min(index, end)), trigger, told)
            if index >= end:
                return DeviceLost(detector.name, "read the frames of a trigger", told)
            self._send(index, trigger, frame)
            due = index + 1
        return None

    def _lose(self, positions: range, trigger: _Trigger, why: str) -> None:
        """Tell that frames will never come."""
        if not positions:
            return
        first, last = self.places[positions[0]], self.places[positions[-1]]
        which = f"frame {first} is" if first == last else f"frames {first} to {last} are"
        self._warn(f"{which} lost: {why}")
        for position in positions:
            self._send(position, trigger, None)

    def _warn(self, problem: str) -> None:
        self.engine.out.event("warning", "engine", f"{self.stack.name} {problem}")

    def _send(self, position: int, trigger: _Trigger, frame: DetectorFrame | None) -> None:
        """Stamp a frame, or the notice that it is lost, and send it to everyone."""
        engine, beam = self.engine, self.engine.plan.recipe.beam
        exposure_ns = int(beam.exposure_s * 1e9)
        index, before = self.places[position], position - trigger.first
        start_ns = trigger.start_ns + before * self._period_ns
        middle_ns = start_ns + exposure_ns // 2
        stage = engine.position
        header: dict[str, Any] = {
            "series": self.stack.name,
            "index": index,
            "tilt_deg": stage.tilt_deg if stage else 0.0,
            "nominal_tilt_deg": self.stack.tilt_deg[index],
            "exposure_s": beam.exposure_s,
            "temperature_c": round(engine.watch.temperature_at(middle_ns), 4),
            "dose_e_per_nm2": beam.dose_per_frame_e_per_nm2,
            "dose_total_e_per_nm2": trigger.charged + self._dose_of(before + 1),
            "frame_number": -1 if frame is None else frame.number,
            "start_ns": start_ns,
        }
        engine.out.frame(header, None if frame is None else frame.data, middle_ns)
        engine.frames_done += frame is not None
        engine.frames_lost += frame is None

    async def _begin_anew(self, base: int, lost: DeviceLost) -> None:
        """Connect and arm again after a loss, with the blanked beam.

        Raises
        ------
        DeviceLost
            If too many triggers in a row have brought nothing.
        """
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= _LOST_IN_A_ROW:
            raise lost
        if base < len(self.places):
            await self.engine.devices.detector.connect()
            await self._arm(base)
