"""Expose the frames of one image stack: credit, beam, trigger, read, stamp, send.

One trigger starts one frame, or several where the stage does not move and a frame is short: then
the beam is on for at most `BURST_S`. The detector's own frame numbers say which frame of the stack
an image is; numbers that are left out are recorded as missing.

Two counts are kept apart: the *index* of a frame in its stack, and its *ordinal* among the frames
that are exposed now. They differ where a resumed run exposes a part of a stack.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...drivers.base import DetectorFrame, DeviceLost, StagePosition
from ...protocols.messages.journal import Trigger
from ...protocols.messages.manifest import StackPlan
from .beam_exposure import BeamExposure, Begun
from .context import AcquisitionContext

# Consecutive triggers without a frame after which the detector counts as lost.
_LOST_IN_A_ROW = 3
# The longest time for which one trigger exposes: an abort need not wait longer.
BURST_S = 0.25
# Nominal angles that differ by less are the same.
_SAME_TILT_DEG = 1e-6


def frames_per_trigger(
    tilt_deg: tuple[float, ...],
    exposure_s: float,
    most: int,
    indices: Sequence[int] | None = None,
) -> int:
    """How many frames one trigger may start in a stack.

    Parameters
    ----------
    tilt_deg : tuple of float
        Nominal angle of each frame; the frames of a trigger have the same.
    exposure_s : float
        Exposure of one frame; several must fit into `BURST_S`.
    most : int
        Upper bound of the result.
    indices : sequence of int, optional
        Frames to be exposed, if not all are; those of a trigger are consecutive.

    Returns
    -------
    int
        A divisor of the number of frames at every angle, 1 at least.
    """
    exposed = range(len(tilt_deg)) if indices is None else indices
    # Consecutive indices differ from their ordinals by the same.
    alike = ((tilt_deg[index], index - ordinal) for ordinal, index in enumerate(exposed))
    together = math.gcd(*(len(list(group)) for _, group in itertools.groupby(alike)))
    largest = max(1, min(most, int(BURST_S / exposure_s)))
    return max(n for n in range(1, min(largest, together) + 1) if together % n == 0)


def stage_header(position: StagePosition) -> dict[str, float]:
    """What the header of a frame says of the stage, as it was last read back before the exposure.

    Examples
    --------
    >>> stage_header(StagePosition(0, 10.0, 1500.0, -20.0))
    {'stage_x_nm': 1500.0, 'stage_y_nm': -20.0}
    """
    told = {"x": position.x_nm, "y": position.y_nm, "z": position.z_nm}
    return {f"stage_{axis}_nm": at for axis, at in told.items() if math.isfinite(at)}


@dataclass(frozen=True)
class _Trigger:
    """What its frames share: ordinal of the first, when that began, and the fluence before that."""

    first: int
    start_ns: int
    charged: float


class StackAcquisition:
    """The exposures of one stack: dose reserved and detector armed, and both undone at the end.

    Parameters
    ----------
    context : AcquisitionContext
        Devices, ledger and outgoing streams of the run.
    stack : StackPlan
        What to expose.
    at_a_time : int
        Number of frames that each trigger starts.
    indices : sequence of int, optional
        Which frames of the stack to expose, in order; all if absent.
    for_scouts_e_per_nm2 : float
        Fluence that is reserved beside that of the frames.
    """

    def __init__(
        self,
        context: AcquisitionContext,
        stack: StackPlan,
        at_a_time: int = 1,
        indices: Sequence[int] | None = None,
        for_scouts_e_per_nm2: float = 0.0,
    ) -> None:
        self._context, self._stack, self.at_a_time = context, stack, at_a_time
        self._for_scouts = for_scouts_e_per_nm2
        self.indices: Sequence[int] = range(stack.frames) if indices is None else indices
        # Ordinal of the frame that the detector numbers 1.
        self._base = 0
        self._period_ns = 0
        self._lost_in_a_row = 0
        self._extra = 0

    async def __aenter__(self) -> StackAcquisition:
        # Armed first: only then are the pauses known, and with them the dose.
        await self._arm(0)
        name, is_series = self._stack.name, self._stack.kind == "series"
        self._context.ledger.reserve(name, self._dose_left(0) + self._for_scouts, is_series)
        return self

    def _dose_left(self, first: int) -> float:
        """Fluence of the triggers from an ordinal on, with the time in which the blanker works."""
        if self._stack.is_dark:
            return 0.0
        context, triggers = self._context, (len(self.indices) - first) // self.at_a_time
        return triggers * (self._dose_of(self.at_a_time) + context.parked_dose_e_per_nm2)

    async def arm_from(self, first: int) -> None:
        """Prepare the detector again, which has taken something else, from an ordinal on."""
        await self._arm(first)

    async def _arm(self, base: int) -> None:
        """Prepare the detector for the frames from an ordinal on."""
        settings, detector = self._context.settings, self._context.detector
        exposure_s = settings.exposure_s
        frames = max(self.at_a_time, len(self.indices) - base)
        await detector.arm(frames, exposure_s, settings.frame, self.at_a_time)
        self._base = base
        self._period_ns = int(max(exposure_s, detector.period_s(exposure_s)) * 1e9)

    def _dose_of(self, frames: int) -> float:
        """Fluence of so many frames of one trigger, with the pauses between them."""
        if self._stack.is_dark:
            return 0.0
        settings = self._context.settings
        pauses = (self._period_ns * 1e-9 / settings.exposure_s - 1) * (frames - 1)
        return settings.dose_per_frame_e_per_nm2 * (frames + max(0.0, pauses))

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._context.ledger.release(self._stack.name)
        if self._extra:
            self._warn(f"has {self._extra} extra frames that were dropped", extra=self._extra)
        # After an error or an abort, safing stops the detector.
        if kind is None:
            await self._context.detector.disarm()

    def triggers(self) -> Iterator[tuple[int, float]]:
        """Ordinal of the first frame, and nominal angle, of every trigger."""
        for first in range(0, len(self.indices), self.at_a_time):
            yield first, self._stack.tilt_deg[self.indices[first]]

    def bring_forward(self, first: int, tilt_deg: float) -> float:
        """Take the frames of an angle next, before the others that are left.

        Parameters
        ----------
        first : int
            Ordinal of the first frame that is left.
        tilt_deg : float
            The angle; if no frame at it is left, nothing changes.

        Returns
        -------
        float
            Angle of the next frame.
        """
        done, left = list(self.indices[:first]), self.indices[first:]
        angles = self._stack.tilt_deg
        wanted = [index for index in left if abs(angles[index] - tilt_deg) < _SAME_TILT_DEG]
        others = [index for index in left if abs(angles[index] - tilt_deg) >= _SAME_TILT_DEG]
        self.indices = [*done, *wanted, *others]
        return angles[self.indices[first]]

    async def expose(self, first: int) -> None:
        """Expose the frames of one trigger and send them on.

        Parameters
        ----------
        first : int
            Ordinal of the first of them.

        Raises
        ------
        DeviceError
            From beam and detector; from the latter only after several losses in a row.
        """
        context, count = self._context, self.at_a_time
        name, index = self._stack.name, self.indices[first]
        dose = self._dose_of(count)
        # The blanker may have become slower than what was reserved for it.
        context.ledger.top_up(name, self._dose_left(first))
        with context.progress.waiting():
            await context.out.credit(count)
        context.journal.note(Trigger(stack=name, first=index, count=count, dose_e_per_nm2=dose))
        # No exposure without a line that a resumed run can read.
        await context.journal.caught_up()
        lost = await self._trigger(first, dose)
        if lost is None:
            self._lost_in_a_row = 0
        else:
            await self._arm_again(first + count, lost)
        context.stage.exposed(name, index, self.indices[first + count - 1])

    async def _trigger(self, first: int, dose: float) -> DeviceLost | None:
        """Expose and read the frames of one trigger; returns why some of them did not come."""
        exposure_s = self._context.settings.exposure_s
        exposed_ns = (self.at_a_time - 1) * self._period_ns + int(exposure_s * 1e9)

        def read(begun: Begun) -> Coroutine[Any, Any, DeviceLost | None]:
            return self._receive(_Trigger(first, begun.start_ns, begun.charged))

        exposure = BeamExposure(self._context, self._stack.name, dark=self._stack.is_dark)
        return await exposure.expose(dose, exposed_ns, read)

    async def _receive(self, trigger: _Trigger) -> DeviceLost | None:
        """Read the frames of one trigger as they come and send them on.

        Returns
        -------
        DeviceLost or None
            Why some did not come; they have been sent as lost.
        """
        detector = self._context.detector
        due, end = trigger.first, trigger.first + self.at_a_time
        while due < end:
            try:
                frame = await detector.read_frame()
            except DeviceLost as error:
                self._lose(range(due, end), trigger, str(error))
                return error
            self._note_extra(frame.extra, due)
            ordinal = self._base + frame.number - 1
            if ordinal < due:
                again = f"the detector sent its frame {frame.number} again; not recorded"
                self._warn(f"frame {self.indices[due]}: {again}")
                continue
            problem = f"the detector numbers the next one {frame.number}"
            self._lose(range(due, min(ordinal, end)), trigger, problem)
            if ordinal >= end:
                return DeviceLost(detector.name, "read the frames of a trigger", problem)
            self._send(ordinal, trigger, frame)
            due = ordinal + 1
        return None

    def _note_extra(self, count: int, due: int) -> None:
        """Count frames that nobody has triggered, and tell of the first."""
        if count and not self._extra:
            self._warn(
                f"frame {self.indices[due]}: the detector sends frames that were not triggered, as "
                "with two counters; they are dropped. Switch its second counter off"
            )
        self._extra += count
        self._context.progress.frames_extra += count

    def _lose(self, ordinals: range, trigger: _Trigger, why: str) -> None:
        """Send frames that will never come as lost."""
        if not ordinals:
            return
        first, last = self.indices[ordinals[0]], self.indices[ordinals[-1]]
        which = f"frame {first} is" if first == last else f"frames {first} to {last} are"
        self._warn(f"{which} lost: {why}")
        for ordinal in ordinals:
            self._send(ordinal, trigger, None)

    def _warn(self, problem: str, **details: Any) -> None:
        self._context.out.event("warning", "engine", f"{self._stack.name} {problem}", **details)

    def _send(self, ordinal: int, trigger: _Trigger, frame: DetectorFrame | None) -> None:
        """Send a frame, or the notice that it is lost, with all that is known of it."""
        context, settings = self._context, self._context.settings
        index, index_in_trigger = self.indices[ordinal], ordinal - trigger.first
        start_ns = trigger.start_ns + index_in_trigger * self._period_ns
        centre_ns = start_ns + int(settings.exposure_s * 1e9) // 2
        position = context.stage.position
        header: dict[str, Any] = {
            "series": self._stack.name,
            "index": index,
            "tilt_deg": position.tilt_deg if position else 0.0,
            "nominal_tilt_deg": self._stack.tilt_deg[index],
            "exposure_s": settings.exposure_s,
            "temperature_c": round(context.watch.temperature_at(centre_ns), 4),
            "dose_e_per_nm2": self._dose_of(1),
            "dose_total_e_per_nm2": trigger.charged + self._dose_of(index_in_trigger + 1),
            "frame_number": -1 if frame is None else frame.number,
            "start_ns": start_ns,
        }
        if position is not None:
            header |= stage_header(position)
        if context.follower is not None:
            header |= context.follower.header()
        context.out.frame(header, None if frame is None else frame.data, centre_ns)
        context.progress.frames_done += frame is not None
        context.progress.frames_lost += frame is None

    async def _arm_again(self, base: int, lost: DeviceLost) -> None:
        """Connect and arm the detector again after a loss, with the beam blanked.

        Raises
        ------
        DeviceLost
            If too many triggers in a row have brought no frame.
        """
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= _LOST_IN_A_ROW:
            raise lost
        if base < len(self.indices):
            await self._context.detector.connect()
            await self._arm(base)
