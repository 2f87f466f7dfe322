"""A Keithley heater and its instrument in virtual time, whose computer stops for a while.

Driver, instrument and chip are those of the product; between them are the bytes. A computer that
stops neither sends nor takes what arrives, while instrument and chip go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from virtual_time import run_in_virtual_time

from pyrotome.drivers.keithley.heater import (
    Keithley2400Heater,
    Keithley2450Heater,
    KeithleyHeater,
)
from pyrotome.drivers.links import lines
from pyrotome.protocols.config.rig import HeaterRig
from pyrotome.protocols.config.simulated import CuSintering, SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.simulators.servers.keithley import BITS_PER_BYTE, FAULTS_TCP, MeterWire
from pyrotome.simulators.servers.source_meter import MODEL_2400, MODEL_2450, SourceMeter
from pyrotome.simulators.servers.wire_faults import WireFaults
from pyrotome.simulators.world.microscope import World

CALIBRATION = Path(__file__).resolve().parents[2] / "examples" / "rigs" / "chip_calibration.json"
TCP = 0  # in place of a baud rate


class LateLink(lines.LineLink):
    """A link that a stopped computer neither writes to nor reads.

    Attributes
    ----------
    stops_s, starts_s : float
        Moments of the event loop's clock between which the computer stands still.
    """

    stops_s = starts_s = float("inf")

    async def ask(self, *arguments: Any, **options: Any) -> Any:
        await self._stands_still()
        try:
            return await super().ask(*arguments, **options)
        finally:
            await self._stands_still()

    async def _stands_still(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if self.stops_s <= now_s < self.starts_s:
            await asyncio.sleep(self.starts_s - now_s)


@dataclass(frozen=True)
class Course:
    """True temperatures after a command; the times are in s from there."""

    times_s: NDArray[np.float64]
    values_c: NDArray[np.float64]
    from_c: float
    to_c: float

    @property
    def beyond_c(self) -> float:
        """How far the chip went beyond where it was to go; 0 where it never did."""
        sign = 1.0 if self.to_c > self.from_c else -1.0
        return max(0.0, float((sign * (self.values_c - self.to_c)).max()))

    @property
    def settled_s(self) -> float:
        """When it was within 1 degC for good."""
        outside = np.flatnonzero(np.abs(self.values_c - self.to_c) > 1.0)
        return float(self.times_s[outside[-1]]) if len(outside) else 0.0


@contextlib.asynccontextmanager
async def connected(baud: int, **options: Any) -> AsyncIterator[tuple[KeithleyHeater, World]]:
    """A heater that is connected to its instrument, and the world; for `run_in_virtual_time`."""
    # The default of the clock is the function as it was before time became virtual.
    clock = ExperimentClock(monotonic_ns=time.monotonic_ns)
    world = World(SimulatorRig(specimen=CuSintering(particles=2)), clock.now_ns())
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    model = MODEL_2400 if baud else MODEL_2450
    byte_s = BITS_PER_BYTE / baud if baud else 0.0
    wire = MeterWire(
        SourceMeter(world, clock, model), clock, WireFaults(FAULTS_TCP),
        b"\r" if baud else b"\n", byte_s,
    )  # fmt: skip
    loop = asyncio.get_running_loop()

    async def port(*_arguments: Any) -> socket.socket:
        return ours

    async def receive() -> bytes:
        return await loop.sock_recv(theirs, 4096)

    async def send(raw: bytes) -> None:
        await loop.sock_sendall(theirs, raw)

    rig = HeaterRig(
        driver="keithley",
        endpoint="serial:///dev/ttyS0" if baud else "tcp://127.0.0.1:5025",
        options={
            "calibration_file": str(CALIBRATION), **({"baud": baud} if baud else {}), **options
        },
    )  # fmt: skip
    kind = Keithley2400Heater if baud else Keithley2450Heater
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrotome.drivers.keithley.source_unit.LineLink", LateLink)
        patch.setattr(LateLink, "_opened_port", lambda *_: ours)
        patch.setattr(lines, "open_tcp", port)
        heater = kind("heater", rig, clock)
        serving = asyncio.create_task(wire.converse(receive, send))
        try:
            await heater.connect(60.0)
            yield heater, world
        finally:
            await heater.disconnect()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            theirs.close()
            ours.close()


def steps(
    baud: int,
    from_c: float,
    to_c: float,
    stops_s: list[float | None],
    stop_s: float = 0.2,
    seconds: float = 1.2,
    **options: Any,
) -> list[Course]:
    """One step after the other, each with the computer stopped at its own moment.

    Parameters
    ----------
    baud : int
        Of a 2400; `TCP` for a 2450.
    from_c, to_c : float
        Where the chip rests before, and where it goes.
    stops_s : list of float or None
        When the computer stops, in s from the command; None: not at all.
    stop_s, seconds : float
        How long it stands still, and how long the course is watched.
    options
        Of the heater.

    Returns
    -------
    list of Course
        One for each of `stops_s`.
    """

    async def work() -> list[Course]:
        found: list[Course] = []
        async with connected(baud, **options) as (heater, world):
            for at_s in stops_s:
                await heater.set_temperature(from_c)
                await asyncio.sleep(1.5)
                now_s = asyncio.get_running_loop().time()
                link = heater.unit.link
                if at_s is not None:
                    link.stops_s, link.starts_s = now_s + at_s, now_s + at_s + stop_s
                since_ns = heater.clock.now_ns()
                start_c = world.heater.temperature_c(since_ns)
                await heater.set_temperature(to_c)
                await asyncio.sleep(seconds + stop_s)
                world.heater.temperature_c(heater.clock.now_ns())
                times, values = world.heater.history(since_ns)
                found.append(Course((times - since_ns) * 1e-9, values, start_c, to_c))
            assert heater.unit.lost_readings == heater.loop.implausible_readings == 0
        return found

    return run_in_virtual_time(work)
