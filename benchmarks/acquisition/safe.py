"""From `safe` on the control socket to the heater's command on the wire.

``python benchmarks/acquisition/safe.py``.

The simulated world's own log is the witness: when the instrument was told to go to its safe
temperature, beside the moment at which the request was sent. Idle, and in the middle of exposures,
of a hold and of moves of the stage, each of which ends a run; and of a tilt series with a scout
before every frame, on a column that errs as a real one does. The daemon is a process of its own, as
`pyrotome serve` starts it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pyrotome.daemon.access.rate_limits import SAFE_EACH
from pyrotome.daemon.client.client import send_request
from pyrotome.protocols.config.rig import SIMULATED_RIG
from pyrotome.protocols.messages.control import Simple, Submit

BOUND_MS = 50.0
RIGS = Path(__file__).parents[2] / "examples/rigs"
BEAM = {
    "voltage": "300 kV", "current": "2 pA", "dwell": "20 us", "frame": [64, 64],
    "pixel_size": "16 nm",
}  # fmt: skip
STANDBY, PROCESSING_C = "60 degC", 120.0  # soon reached: how hot it is does not matter here
HEAT = {"heat": {"to": STANDBY}}
SITUATIONS: dict[str, list[dict[str, Any]]] = {
    "exposures": [HEAT, {"reference": {"frames": 3000}}],
    "hold": [
        HEAT,
        {"cycle": {"standby": STANDBY, "processing": f"{PROCESSING_C} degC", "holds": ["1 h"]}},
    ],
    "moves": [HEAT, {"tilt_series": {"from": "-60 deg", "to": "60 deg", "step": "0.5 deg"}}],
}  # fmt: skip


TRACKED = "tracked series"
TRACKED_RECIPE = {
    "beam": {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [1024, 1024],
             "pixel_size": "1.04 nm"},
    "track": {"keep_within": "always", "scouts": "30 e/nm^2"},
    "steps": [HEAT, {"tilt_series": {"from": "-20 deg", "to": "20 deg", "step": "0.5 deg",
                                     "order": "bidirectional"}}],
}  # fmt: skip


class World:
    """The log of the simulated world, followed as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self.targets: list[tuple[int, float]] = []
        self.exposures = 0

    def look(self) -> None:
        with self._path.open() as file:
            file.seek(self._at)
            for line in iter(file.readline, ""):
                if not line.endswith("\n"):
                    break
                self._at += len(line)
                found = json.loads(line)
                if found["event"] == "heater":
                    self.targets.append((found["t_ns"], found["target_c"]))
                self.exposures += found["event"] == "exposure"

    def until(self, so: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not so():
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.005)
            self.look()


SERVE = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
import pyrotome.daemon.cli.foreground as foreground
from pyrotome.daemon.service import startup as starting
running = starting.running_daemon
foreground.running_daemon = lambda rig, text, options: running(
    rig, text, replace(options, simulator_log=Path(sys.argv[2])))
from pyrotome.protocols.config.rig import load_rig
rig, text = load_rig(Path(sys.argv[1]))
asyncio.run(foreground.serve_until_stopped(rig, text, 1.0))
"""


class Served:
    """A daemon that waits for control."""

    def __init__(self, folder: Path, rig: dict[str, Any]) -> None:
        rig = {
            **rig,
            "streams": {"monitor": "tcp://127.0.0.1:*", "control": "tcp://127.0.0.1:*"},
            "simulator": {
                **rig.get("simulator", {}),
                "specimen": {"kind": "cu-sintering", "particles": 6},
            },
        }
        path = folder / "rig.yaml"
        path.write_text(yaml.safe_dump(rig))
        log = folder / "world.log"
        with (folder / "stderr").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(path), str(log)],
                stderr=errors, cwd=folder, env={**os.environ, "COLUMNS": "300"},
            )  # fmt: skip
        end = time.monotonic() + 60
        while "control on" not in (text := (folder / "stderr").read_text()):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(text)
            time.sleep(0.02)
        self.endpoint = text.split("control on")[1].split()[0].rstrip(",;")
        self.folder, self.world, self._numbers = folder, World(log), itertools.count()

    def begin(self, situation: str) -> None:
        recipe: dict[str, Any] = {"title": "safe", "sample": {"name": "none"}}
        if situation == TRACKED:
            recipe |= TRACKED_RECIPE
        else:
            recipe |= {"beam": BEAM, "steps": SITUATIONS[situation]}
        output = self.folder / f"{next(self._numbers)}.nxs"
        request = Submit(verb="submit", recipe=yaml.safe_dump(recipe), output=str(output))
        reply = send_request(self.endpoint, request)
        if not reply.ok:
            raise RuntimeError(reply.error)

    def safe_ms(self) -> float:
        """Wall milliseconds from the request to the instrument."""
        self.world.look()
        seen = len(self.world.targets)
        asked_ns = time.time_ns()
        reply = send_request(self.endpoint, Simple(verb="safe"), 60.0)
        if not reply.ok:
            raise RuntimeError(reply.error)
        self.world.until(lambda: any(c == 25.0 for _, c in self.world.targets[seen:]))
        at_ns = next(t for t, c in self.world.targets[seen:] if c == 25.0)
        return (at_ns - asked_ns) * 1e-6

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def measure(served: Served, situation: str, times: int) -> list[float]:
    world = served.world
    found: list[float] = []
    for number in range(times):
        if situation != "idle":
            world.look()
            targets, exposures = len(world.targets), world.exposures
            served.begin(situation)
            if situation == "hold":
                world.until(lambda n=targets: any(c == PROCESSING_C for _, c in world.targets[n:]))
            else:
                world.until(lambda n=exposures: world.exposures > n + 1)
        # Not always at the same moment of what goes on.
        # And no more often than a daemon lets one ask.
        time.sleep(1 / SAFE_EACH + 0.013 * (number % 7))
        found.append(served.safe_ms())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100, help="requests while idle")
    parser.add_argument("--runs", type=int, default=20, help="requests in each kind of run")
    arguments = parser.parse_args()
    print(f"{'safe, control socket to heater':34} {'times':>6} {'median/ms':>10} {'p99/ms':>8}")
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        realistic = yaml.safe_load((RIGS / "realistic.yaml").read_text())
        for kind, rig, situations in (
            ("ideal", SIMULATED_RIG, ("idle", *SITUATIONS)),
            ("realistic", realistic, (TRACKED,)),
        ):
            folder = Path(name) / kind
            folder.mkdir()
            shutil.copy(RIGS / "shift_calibration.json", folder)
            served = Served(folder, rig)
            try:
                for situation in situations:
                    times = arguments.times if situation == "idle" else arguments.runs
                    found = measure(served, situation, times)
                    median, p99 = np.percentile(found, [50, 99])
                    worst = max(worst, float(p99))
                    print(f"{situation:34} {len(found):6} {median:10.1f} {p99:8.1f}", flush=True)
            finally:
                served.close()
    print(f"promised: p99 below {BOUND_MS:g} ms; found: {worst:.1f} ms")


if __name__ == "__main__":
    main()
