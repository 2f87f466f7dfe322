"""Frames per second from a detector's simulator into the file, beside LiberTEM-live's own receiver.

The whole chain of ours runs: simulator (a process), driver, engine with the beam unblanked and
blanked for each trigger, link, recorder, file. The peer receives as many of the same frames from
the same simulator, and writes nothing. Beside them, a bare h5py loop that writes these frames from
memory with the same compression.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin

from pyrotome.daemon.runtime.event_bus import EventBus
from pyrotome.daemon.runtime.processes import Child
from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.daemon.service.daemon import Daemon
from pyrotome.daemon.service.startup import served_by
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import Rig, Streams, simulated_rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.protocols.runfile.summary import inspect_file

sys.path.insert(0, str(Path(__file__).parents[1] / "instruments"))
from detectors import CASES, FILL, Case, peer, served

SCHEMES = {"merlin": "tcp", "dectris-simplon": "http"}


def recipe(side: int, frames: int) -> Recipe:
    return Recipe.model_validate(
        {
            "title": "Ingest",
            "sample": {"name": "none", "elements": ["Cu"]},
            "beam": {
                "voltage": "300 kV", "current": "2 pA", "dwell": f"{1e5 / side**2:.6f} ns",
                "frame": [side, side], "pixel_size": "1.04 nm",
            },
            "steps": [{"reference": {"frames": frames}}],
        }
    )  # fmt: skip


def rig_with(driver: str) -> Rig:
    rig = simulated_rig().model_dump(by_alias=True)
    rig["detector"] = {
        "driver": driver,
        "endpoint": f"{SCHEMES[driver]}://127.0.0.1:0",
        "options": {"data_endpoint": "tcp://127.0.0.1:0"},
    }
    rig["streams"] = Streams(monitor="tcp://127.0.0.1:*", control="tcp://127.0.0.1:*").model_dump()
    return Rig.model_validate(rig)


async def ours(rig: Rig, side: int, frames: int, file: Path) -> tuple[float, dict[str, Any]]:
    """Frames per second between the first and the last, and what the file says of itself."""
    clock = ExperimentClock()
    config = SimulatorConfig(rig=rig, clock=ClockConfig.of(clock))
    simulators = await Child.start("simulators", "pyrotome.simulators", config, "--fill", str(FILL))
    served = served_by(rig, simulators)
    daemon = Daemon(served, "", clock, EventBus(), fall_back_ports=True)
    try:
        await daemon.open()
        daemon.start(make_plan(recipe(side, frames), rig), "", file)
        started: float | None = None
        while daemon.experiment is not None and daemon.experiment.outcome is None:
            if started is None and daemon.experiment.engine.progress.frames_done:
                started, first = time.perf_counter(), daemon.experiment.engine.progress.frames_done
            if daemon.experiment.engine.progress.frames_done >= frames:
                break
            await asyncio.sleep(0.01)
        await daemon.wait()
        assert started is not None
        # The file's own time is in it: what was taken and not yet written does not count.
        return (frames - first) / (time.perf_counter() - started), inspect_file(file)
    finally:
        await daemon.close()
        await simulators.stop()


def bare_loop(source: Path, target: Path, frames: int) -> float:
    with h5py.File(source) as file:
        some = file["reference_001/instrument/detector/data"][:FILL]
    start = time.perf_counter()
    with h5py.File(target, "w", libver="v110") as file:
        filters = hdf5plugin.Bitshuffle(nelems=0, cname="lz4")
        shape = some.shape[1:]
        data = file.create_dataset("d", (frames, *shape), "<u2", chunks=(1, *shape), **filters)
        for index in range(frames):
            data[index] = some[index % len(some)]
    return frames / (time.perf_counter() - start)


async def theirs(case: Case) -> float | None:
    if importlib.util.find_spec("libertem_live") is None:
        return None
    async with served(case.driver) as (control, data):
        rate = await peer(case, control, data, decoded=False, megabytes=0.0)
    return rate.frames_per_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=8000)
    frames: int = parser.parse_args().frames
    for case in CASES:
        side = case.shape[0]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rate, found = asyncio.run(ours(rig_with(case.driver), side, frames, folder / "r.nxs"))
            bare = bare_loop(folder / "r.nxs", folder / "bare.h5", frames)
        print(f"{case.name}, {frames} frames")
        print(
            f"  simulator to file           {rate:8.0f} frames/s   "
            f"{found['frames']} recorded, {found['lost_frames']} lost"
        )
        print(f"  bare h5py loop              {bare:8.0f} frames/s   ours / bare {rate / bare:.2f}")
        sized = Case(case.name, case.driver, case.shape, frames)
        received = asyncio.run(theirs(sized))
        if received is None:
            print("  LiberTEM-live is not installed (extra 'interop')")
        else:
            print(
                f"  LiberTEM-live, to memory    {received:8.0f} frames/s   "
                f"ours / theirs {rate / received:.2f}"
            )


if __name__ == "__main__":
    main()
