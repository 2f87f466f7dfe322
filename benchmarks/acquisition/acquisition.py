"""From the detector's wire to the file, and what that does to the holds.

Frames of 1024 x 1024 Poisson counts come from the Merlin simulator at full rate, through driver,
monitor and link, into the recorder's file, while the heater is held at processing temperature
again and again. Printed beside the rate: a bare h5py loop that writes the very frames of that file
with the same compression, in the same run. Printed beside the hold error: the same holds without
any frames. The engine's own rate, with the beam unblanked and blanked for every frame, comes last.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from pyrotome.daemon.run.experiment import Experiment, Outcome
from pyrotome.daemon.run.hold_timer import HoldTimer
from pyrotome.daemon.runtime.event_bus import EventBus
from pyrotome.daemon.runtime.processes import Child
from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.daemon.service.daemon import Daemon
from pyrotome.daemon.service.startup import served_by
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import Rig, Streams, simulated_rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.manifest import HoldPlan
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.protocols.runfile.summary import inspect_file

SIDE = 1024
FILL = 16
MOST_IN_STACK = 100_000


def recipe(frames: int) -> Recipe:
    """A recipe of so many frames, in as many stacks as it takes."""
    full, rest = divmod(frames, MOST_IN_STACK)
    stacks = [MOST_IN_STACK] * full + [rest] * (rest > 0)
    return Recipe.model_validate(
        {
            "title": "Acquisition rate",
            "sample": {"name": "none", "elements": ["Cu"]},
            "beam": {
                "voltage": "300 kV", "current": "2 pA", "dwell": "1 ns",
                "frame": [SIDE, SIDE], "pixel_size": "1.04 nm",
            },
            "steps": [
                {"heat": {"to": "200 degC"}},
                *({"reference": {"frames": count}} for count in stacks),
            ],
        }
    )  # fmt: skip


async def hold_errors_ms(
    daemon: Daemon, count: int, hold_s: float, errors: list[float] | None = None
) -> list[float]:
    """Errors of so many holds; `errors` has those of a call that was cancelled."""
    timer = HoldTimer(daemon.watch)
    errors = [] if errors is None else errors
    for index in range(1, count + 1):
        plan = HoldPlan(index=index, standby_c=200, target_c=350, requested_s=hold_s)
        timing = await timer.hold(plan)
        errors.append((timing.achieved_s - hold_s) * 1e3)
        await daemon.watch.settled(200.0, timing.commanded_down_ns)
    return errors


async def stream(daemon: Daemon, experiment: Experiment, frames: int) -> float:
    """Take frames as fast as the chain lets them through; when it began (perf_counter)."""
    detector = daemon.devices.detector
    places = ((s.name, k) for s in experiment.plan.stacks for k in range(s.frames))
    await detector.arm(frames, 0.001, (SIDE, SIDE))
    start = time.perf_counter()
    for series, index in places:
        await experiment.streams.credit()
        t_ns = await detector.trigger()
        frame = await detector.read_frame()
        header = {
            "series": series, "index": index, "tilt_deg": 0.0, "nominal_tilt_deg": 0.0,
            "exposure_s": 0.001, "dose_e_per_nm2": 0.0, "dose_total_e_per_nm2": 0.0,
            "temperature_c": daemon.watch.temperature_at(t_ns), "frame_number": frame.number,
        }  # fmt: skip
        experiment.streams.frame(header, frame.data, t_ns)
    await detector.disarm()
    return start


def bare_loop(source: Path, target: Path, count: int) -> float:
    with h5py.File(source) as file:
        frames = file["reference_001/instrument/detector/data"][:FILL]
    start = time.perf_counter()
    with h5py.File(target, "w", libver="v110") as file:
        data = file.create_dataset(
            "data", (count, SIDE, SIDE), "<u2", chunks=(1, SIDE, SIDE),
            **hdf5plugin.Bitshuffle(nelems=0, cname="lz4"),
        )  # fmt: skip
        for index in range(count):
            data[index] = frames[index % len(frames)]
    return count / (time.perf_counter() - start)


def quantiles(errors: list[float]) -> str:
    size = np.abs(errors)
    return (
        f"median {np.median(size):6.2f} ms   p99 {np.percentile(size, 99):6.2f} ms   "
        f"worst {size.max():6.2f} ms   ({len(errors)} holds)"
    )


@dataclass
class Chain:
    """Everything before the file: instruments in processes of their own, and the daemon here."""

    daemon: Daemon
    rig: Rig
    processes: dict[str, int]


@asynccontextmanager
async def connected() -> AsyncIterator[Chain]:
    """A daemon at a simulated microscope, heater at standby."""
    clock = ExperimentClock()
    rig = simulated_rig().model_copy(
        update={"streams": Streams(monitor="tcp://127.0.0.1:*", control="tcp://127.0.0.1:*")}
    )
    config = SimulatorConfig(rig=rig, clock=ClockConfig.of(clock))
    # Two processes, as there are two instruments: frames must not delay the heater's own end.
    simulators = await Child.start("simulators", "pyrotome.simulators", config)
    camera = await Child.start("camera", "pyrotome.simulators", config, "--fill", str(FILL))
    served = served_by(rig, simulators).model_copy(
        update={"detector": served_by(rig, camera).detector}
    )
    daemon = Daemon(served, "", clock, EventBus(), fall_back_ports=True)
    try:
        await daemon.open()
        await daemon.devices.heater.start_ramp(200.0, 2.0)
        await daemon.watch.settled(200.0, clock.now_ns() + 2_000_000_000)
        started = {"simulators": simulators, "camera": camera}
        yield Chain(daemon, rig, {name: child.process.pid for name, child in started.items()})
    finally:
        await daemon.close()
        await asyncio.gather(simulators.stop(), camera.stop())


async def run(frames: int, holds: int, hold_s: float, folder: Path) -> None:
    async with connected() as chain:
        daemon, rig = chain.daemon, chain.rig
        quiet = await hold_errors_ms(daemon, holds, hold_s)

        file = folder / "stream.nxs"
        experiment = daemon.experiment_for(make_plan(recipe(frames), rig), "", file)
        await experiment.open()
        holding = asyncio.create_task(hold_errors_ms(daemon, holds, hold_s))
        started = await stream(daemon, experiment, frames)
        await experiment.close_file(Outcome("complete"))
        await experiment.close()
        ours = frames / (time.perf_counter() - started)
        busy = await holding
        found = inspect_file(file)
        bare = bare_loop(file, folder / "bare.h5", frames)

        megabytes = SIDE * SIDE * 2e-6
        print(
            f"detector to file   {ours:7.0f} frames/s {ours * megabytes:7.0f} MB/s   "
            f"{found['frames']} recorded, {found['lost_frames']} lost"
        )
        print(
            f"bare h5py loop     {bare:7.0f} frames/s {bare * megabytes:7.0f} MB/s   "
            f"same frames, same compression, from memory"
        )
        print(f"ratio              {ours / bare:7.2f}")
        print(f"hold error, {hold_s:g} s holds, no frames      {quantiles(quiet)}")
        print(f"hold error, frames at full rate     {quantiles(busy)}")

        file = folder / "engine.nxs"
        count = max(50, frames // 5)
        start = time.perf_counter()
        daemon.start(make_plan(recipe(count), rig), "", file)
        outcome = await daemon.wait()
        found = inspect_file(file)
        with h5py.File(file) as run_file:
            taken_s = run_file["reference_001/frames/time"][()]
        rate = (count - 1) / (taken_s[-1] - taken_s[0])
        print(
            f"engine, 1 ms exposures, beam blanked between: {rate:.0f} frames/s "
            f"({outcome.status}, {found['lost_frames']} lost, "
            f"{time.perf_counter() - start:.1f} s in all)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=6000)
    parser.add_argument("--holds", type=int, default=15)
    parser.add_argument("--hold-s", type=float, default=1.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(arguments.frames, arguments.holds, arguments.hold_s, Path(folder)))


if __name__ == "__main__":
    main()
