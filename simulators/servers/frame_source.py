"""What detector servers share: exposures of the specimen as triggers start them, drawn in threads.

A frame shows the specimen at mid-exposure; rows with the beam blanked are dark. Frames of one
trigger follow each other without a pause, unless the period between them is longer than the
exposure. When each is exposed is settled with the trigger, and does not change when drawing or
the consumer is slow: then frames come late, and none is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.clock import ExperimentClock
from ..world.dark_signal import dark_signal, with_dark_signal
from ..world.microscope import World
from ..world.scan import Exposure, ImagingState
from .sockets import end
from .wire_faults import WireFaults

Encoded = TypeVar("Encoded")
# Wall seconds from the end of an exposure until its frame is made, as a detector is read out: the
# column, which shares the computer here and not elsewhere, answers meanwhile.
_READOUT_S = 0.003
# An exposure that is shorter, in wall seconds, is not drawn before its end.
_SHORT_S = 0.02
Counts = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Scan(Generic[Encoded]):
    """How the frames of an acquisition are exposed.

    Attributes
    ----------
    frames : int
        In all.
    shape : tuple of int
        (rows, columns).
    exposure_s, period_s : float
        Of each frame, and from the start of one to the start of the next.
    dtype : type
        Unsigned integers.
    ceiling : int
        Highest count; higher ones are cut, but not those of a recording.
    encode : callable
        Makes of counts what travels; runs in a thread.
    """

    frames: int
    shape: tuple[int, int]
    exposure_s: float
    period_s: float
    dtype: type[np.unsignedinteger[Any]]
    ceiling: int
    encode: Callable[[Counts], Encoded]


@dataclass(frozen=True)
class Shot(Generic[Encoded]):
    """One exposure that is over; `number` counts from 1, `drawn` is or will be its frame."""

    number: int
    start_ns: int
    end_ns: int
    drawn: asyncio.Future[Encoded]


class Scanner(Generic[Encoded]):
    """Exposes the frames of one acquisition after the other.

    Parameters
    ----------
    world, clock : World, ExperimentClock
        What is imaged, and when.
    deliver : callable
        Takes each shot; exposures wait until it has.
    fill_frames : int
        When not 0, a benchmark: so many Poisson frames are made when an acquisition begins and
        delivered again and again, as fast as they are taken; beam, exposure time and stage play
        no part.
    faults : WireFaults, optional
        Switches of the wire's faults; ``blank-frame`` and ``same-frame`` are this class's.
    """

    def __init__(
        self,
        world: World,
        clock: ExperimentClock,
        deliver: Callable[[Shot[Encoded]], Awaitable[None]],
        fill_frames: int = 0,
        faults: WireFaults | None = None,
    ) -> None:
        self._faults = WireFaults(()) if faults is None else faults
        self._before: asyncio.Future[Encoded] | None = None
        self._world, self._clock, self._deliver = world, clock, deliver
        self._fill_frames = fill_frames
        self._threads = ThreadPoolExecutor(2, "render")
        self._scan: Scan[Encoded] | None = None
        self._exposing: asyncio.Task[None] | None = None
        self._filling: list[asyncio.Future[Encoded]] = []
        self.left = 0

    @property
    def exposing(self) -> bool:
        """Whether frames are being exposed."""
        return self._exposing is not None

    async def begin(self, scan: Scan[Encoded]) -> None:
        """Prepare an acquisition; one before it must have been taken or stopped."""
        if self._exposing is not None:
            await asyncio.wait([self._exposing])  # its last frame is out, and it is about to end
        before, self._scan, self.left = self._scan, scan, scan.frames
        if before is None or (before.shape, before.dtype) != (scan.shape, scan.dtype):
            self._before = None
        if self._fill_frames:
            loop = asyncio.get_running_loop()
            made = await loop.run_in_executor(self._threads, self._fill, scan)
            self._filling = [_done(loop, frame) for frame in made]

    def expose(self, frames: int) -> asyncio.Task[None]:
        """Start the exposures of one trigger now, as many as are left at most.

        Returns
        -------
        asyncio.Task
            Over when they are, and delivered.
        """
        scan = self._scan
        if scan is None or self._exposing is not None:
            raise RuntimeError("nothing to expose, or an exposure is under way")
        frames = min(frames, self.left)
        # The first scan begins with the command, before its answer goes out.
        work = (
            self._repeat(scan, frames)
            if self._fill_frames
            else self._expose(scan, self._begin(scan, frames))
        )
        task = asyncio.create_task(work, name="exposure")
        self._exposing = task

        def over(ended: asyncio.Task[None]) -> None:
            if self._exposing is ended:
                self._exposing = None

        task.add_done_callback(over)
        return task

    async def stop(self) -> None:
        """Abandon the exposure under way."""
        task, self._exposing = self._exposing, None
        self.left = 0
        if task is not None:
            await end([task])
            self._world.scan.abandon(self._clock.now_ns())

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=True)

    def _begin(self, scan: Scan[Encoded], frames: int) -> Iterator[Exposure]:
        return self._world.scan.begin_series(
            self._clock.now_ns(), scan.exposure_s, scan.period_s, scan.shape, frames
        )

    async def _expose(self, scan: Scan[Encoded], exposures: Iterator[Exposure]) -> None:
        world, clock = self._world, self._clock
        for exposure in exposures:
            await asyncio.sleep(0)  # for other tasks, when exposures are behind
            early: tuple[ImagingState, NDArray[np.float32], asyncio.Future[Encoded]] | None = None
            if clock.wall_s(scan.exposure_s) > _SHORT_S:
                await clock.sleep_until_ns(exposure.middle_ns)
                state = world.scan.state(exposure.middle_ns, exposure)
                on = world.scan.beam_on(exposure)
                # All will most likely stay as it is: draw the frame while the scan goes on.
                early = state, on, self._draw(scan, exposure, state, on)
            await clock.sleep_until_ns(exposure.end_ns + int(_READOUT_S / clock.wall_s(1e-9)))
            truly = self._as_it_was(exposure, None if early is None else early[0])
            truly_on = world.scan.end(exposure, truly)
            if early is not None and truly is early[0] and np.array_equal(truly_on, early[1]):
                drawn = early[2]
            else:
                drawn = self._draw(scan, exposure, truly, truly_on)
            if self._faults.strikes("blank-frame"):
                drawn = self._draw(scan, exposure, truly, np.zeros_like(truly_on))
            if self._before is not None and self._faults.strikes("same-frame"):
                drawn = self._before
            self._before = drawn
            await self._hand_over(scan, exposure.start_ns, exposure.end_ns, drawn)

    def _as_it_was(self, exposure: Exposure, state: ImagingState | None) -> ImagingState:
        """The state of a scan that is over: the one of its middle, if nothing moved since."""
        if state is not None and state.rows_nm is None:
            return state
        seen = self._world.scan.state(exposure.middle_ns, exposure)
        return state if state is not None and seen.looks_like(state) else seen

    async def _repeat(self, scan: Scan[Encoded], frames: int) -> None:
        exposure_ns = int(scan.exposure_s * 1e9)
        for _ in range(frames):
            start_ns = self._clock.now_ns()
            drawn = self._filling[self.left % len(self._filling)]
            await self._hand_over(scan, start_ns, start_ns + exposure_ns, drawn)

    async def _hand_over(
        self, scan: Scan[Encoded], start_ns: int, end_ns: int, drawn: asyncio.Future[Encoded]
    ) -> None:
        self.left -= 1
        await self._deliver(Shot(scan.frames - self.left, start_ns, end_ns, drawn))

    def _draw(
        self, scan: Scan[Encoded], exposure: Exposure, state: ImagingState, on: NDArray[np.float32]
    ) -> asyncio.Future[Encoded]:
        return asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: scan.encode(self._counts(scan, exposure, state, on))
        )

    def _counts(
        self, scan: Scan[Encoded], exposure: Exposure, state: ImagingState, on: NDArray[np.float32]
    ) -> Counts:
        world = self._world
        counts = world.scan.frame(exposure, state, on, scan.dtype)
        signal = dark_signal(world.config.detector, scan.shape, world.config.seed)
        highest = min(scan.ceiling, int(np.iinfo(scan.dtype).max))
        counts = with_dark_signal(counts, signal, highest)
        if self._world.recording is None and scan.ceiling < np.iinfo(scan.dtype).max:
            np.minimum(counts, scan.ceiling, out=counts)
        return counts

    def _fill(self, scan: Scan[Encoded]) -> list[Encoded]:
        """Frames as they would look with the beam on for the whole exposure."""
        state = self._world.scan.state(self._clock.now_ns())
        on = np.ones(scan.shape[0], np.float32)
        exposure_ns = max(1, int(scan.exposure_s * 1e9))
        return [
            scan.encode(self._counts(scan, Exposure(k, 0, exposure_ns, scan.shape), state, on))
            for k in range(self._fill_frames)
        ]


def _done(loop: asyncio.AbstractEventLoop, frame: Encoded) -> asyncio.Future[Encoded]:
    future: asyncio.Future[Encoded] = loop.create_future()
    future.set_result(frame)
    return future
