"""Minutes at the highest rate, from wire to file: python benchmarks/acquisition/sustained.py.

As `acquisition.py`, but for as long as it takes to see whether something grows: frames of 1024 x
1024 Poisson counts go through driver, monitor and link into one file, while the heater holds its
processing temperature again and again. Printed: the rate beside that of a bare h5py loop which
writes the same frames with the same compression, before and after, in the same run; for the first
and the last fifth of the time the rate and each process's CPU per frame; the memory of every
process; the holds' errors.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from acquisition import SIDE, Chain, bare_loop, connected, hold_errors_ms, quantiles, recipe, stream

from pyrotome.daemon.run.experiment import Experiment, Outcome
from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.protocols.runfile.summary import inspect_file

CALIBRATION_FRAMES = 3000
BARE_FRAMES = 6000
# A process is called flat if it gains less than this after the first fifth of the time.
FLAT_MB = 16.0
LEAST_RATIO = 0.5


@dataclass
class Course:
    """What each process used, sampled each second, beside the frames that had gone out."""

    at_s: list[float] = field(default_factory=list[float])
    frames: list[int] = field(default_factory=list[int])
    cpu_s: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    megabytes: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    async def follow(self, experiment: Experiment, processes: dict[str, psutil.Process]) -> None:
        for name in processes:
            self.cpu_s[name], self.megabytes[name] = [], []
        while True:
            self.at_s.append(time.perf_counter())
            recorder = experiment.status()["recorder"] or {}
            self.frames.append(int(recorder.get("dealt") or 0))
            for name, process in processes.items():
                with process.oneshot():
                    times = process.cpu_times()
                    self.cpu_s[name].append(times.user + times.system)
                    self.megabytes[name].append(process.memory_info().rss / 1e6)
            await asyncio.sleep(1.0)

    def part(self, begin: float, end: float) -> tuple[float, dict[str, float]]:
        """Frames per second, and CPU milliseconds per frame of each process, in a part of it."""
        first = int(begin * len(self.at_s))
        last = max(first + 1, int(end * len(self.at_s)) - 1)
        frames = self.frames[last] - self.frames[first]
        each = {n: (c[last] - c[first]) * 1e3 / max(1, frames) for n, c in self.cpu_s.items()}
        return max(1, frames) / (self.at_s[last] - self.at_s[first]), each


async def take(chain: Chain, file: Path, frames: int, course: Course | None = None) -> float:
    """Take and record so many frames; frames per second until the file is closed."""
    daemon = chain.daemon
    experiment = daemon.experiment_for(make_plan(recipe(frames), chain.rig), "", file)
    await experiment.open()
    me = psutil.Process()
    recorder = next(p for p in me.children() if "pyrotome.daemon.recording.recorder" in p.cmdline())
    processes = {"daemon": me, "recorder": recorder}
    processes |= {name: psutil.Process(pid) for name, pid in chain.processes.items()}
    following = (
        asyncio.create_task(course.follow(experiment, processes)) if course is not None else None
    )
    began_s = await stream(daemon, experiment, frames)
    if following is not None:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    await experiment.close_file(Outcome("complete"))
    await experiment.close()
    return frames / (time.perf_counter() - began_s)


def report(course: Course) -> bool:
    """Print the course; whether it is flat."""
    (first, at_first), (last, at_last) = course.part(0.0, 0.2), course.part(0.8, 1.0)
    print(f"{'':18}{'first fifth':>12}{'last fifth':>12}{'ratio':>8}")
    print(f"{'frames/s':18}{first:12.0f}{last:12.0f}{last / first:8.2f}")
    for name, cost_ms in at_first.items():
        print(
            f"{f'CPU ms, {name}':18}{cost_ms:12.3f}{at_last[name]:12.3f}"
            f"{at_last[name] / cost_ms:8.2f}"
        )
    flat = True
    for name, sizes in course.megabytes.items():
        early, late = sizes[len(sizes) // 5], float(np.max(sizes[-10:]))
        flat = flat and late - early < FLAT_MB
        print(f"{f'MB, {name}':18}{early:12.1f}{late:12.1f}{late / early:8.2f}")
    return flat


async def run(minutes: float, holds: int, folder: Path) -> bool:
    async with connected() as chain:
        calibration = folder / "calibration.nxs"
        rate = await take(chain, calibration, CALIBRATION_FRAMES)
        before = bare_loop(calibration, folder / "bare.h5", BARE_FRAMES)
        frames = int(rate * minutes * 60)
        print(f"{minutes:g} minutes, {frames} frames of {SIDE} x {SIDE}", flush=True)
        file, course = folder / "sustained.nxs", Course()
        errors: list[float] = []
        holding = asyncio.create_task(hold_errors_ms(chain.daemon, holds, 1.0, errors))
        ours = await take(chain, file, frames, course)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        after = bare_loop(calibration, folder / "bare.h5", BARE_FRAMES)
        found = inspect_file(file)
    bare = (before + after) / 2
    print(
        f"detector to file   {ours:7.0f} frames/s   {found['frames']} recorded, "
        f"{found['lost_frames']} lost, {file.stat().st_size / 1e9:.1f} GB"
    )
    print(f"bare h5py loop     {bare:7.0f} frames/s   ({before:.0f} before, {after:.0f} after)")
    print(f"ratio              {ours / bare:7.2f}   (promised: at least {LEAST_RATIO:g})")
    flat = report(course)
    if errors:
        print(f"hold error, 1 s holds    {quantiles(errors)}")
    whole = found["frames"] == frames and found["lost_frames"] == 0
    return whole and flat and ours >= LEAST_RATIO * bare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--holds", type=int, help="of 1 s; 22 in each minute by default")
    parser.add_argument("--folder", type=Path, help="on the disk to write to")
    arguments = parser.parse_args()
    holds = int(arguments.minutes * 22) if arguments.holds is None else arguments.holds
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        return 0 if asyncio.run(run(arguments.minutes, holds, Path(name))) else 1


if __name__ == "__main__":
    sys.exit(main())
