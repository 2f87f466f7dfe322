"""A day of experiment without a pause: is every message seen, and does no process grow?

`pyrotome run` carries out a recipe of so many simulated hours, with tilt series, holds, telemetry,
online analysis and an MQTT broker (mosquitto, where it is installed). A subscriber follows every
topic of the monitor and checks that no sequence number is missing; the memory of every process is
sampled all the time. Printed at the end: gaps, holds, and for each process the slope of its memory
with its 95 % interval, after the first quarter, in which caches fill.

With ``--find`` no day is run, but some minutes at each of several speeds: the highest at which
holds are still right is the one to use. What limits it is the daemon's own work per second of wall
time: one hold is as wrong as its wake-up is late, times the speed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import yaml
import zmq

from pyrotome.protocols.config.rig import SIMULATED_RIG

HOLD_S = 300.0
# Holds of five minutes count as right within this: half a per mille as a rule, never one per cent.
MEDIAN_ERROR_S, WORST_ERROR_S = 0.15, 2.0
SPEEDS = (30.0, 60.0, 120.0, 240.0, 480.0)
# A process may grow by so much in a day before it counts as growing.
GROWTH_MB_PER_DAY = 32.0


def recipe(hours: float) -> dict[str, Any]:
    """About so many hours: in each of them five holds, each followed by a tilt series."""
    tilts = {"from": "-40 deg", "to": "40 deg", "step": "4 deg"}
    hour = [
        {"heat": {"to": "200 degC", "hold": "27 min"}},
        {"reference": {"frames": 40}},
        {
            "cycle": {
                "standby": "200 degC",
                "processing": "350 degC",
                "holds": [f"{HOLD_S:g} s"] * 5,
                "then": [{"tilt_series": tilts}],
            }
        },
    ]
    return {
        "title": "Soak",
        "sample": {"name": "Cu NP", "elements": ["Cu"]},
        "beam": {
            "voltage": "300 kV", "current": "2 pA", "dwell": "10 us",
            "frame": [128, 128], "pixel_size": "8 nm",
        },
        "steps": hour * max(1, round(hours)),
        "analysis": [{"reconstruct": {"method": "sirt", "iterations": 2, "binning": 4}}],
    }  # fmt: skip


def rig(sample_every_s: float, broker: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        **SIMULATED_RIG,
        "streams": {"monitor": "tcp://127.0.0.1:*", "control": "tcp://127.0.0.1:*"},
        "simulator": {
            "specimen": {"kind": "cu-sintering", "particles": 6},
            "chip": {"sample_every": f"{sample_every_s:g} s"},
        },
    }
    if broker is not None:
        found["mqtt"] = {"host": "127.0.0.1", "port": broker}
    return found


@contextlib.contextmanager
def mosquitto(folder: Path) -> Iterator[int | None]:
    """A broker on a free port; None where there is none to start."""
    program = shutil.which("mosquitto", path=f"/usr/sbin:{os.environ.get('PATH', '')}")
    if program is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


@dataclass
class Seen:
    """What a subscriber has seen of every topic."""

    messages: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    last: dict[str, int] = field(default_factory=dict[str, int])
    gaps: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    holds: list[dict[str, int]] = field(default_factory=list[dict[str, int]])
    lags_s: list[float] = field(default_factory=list[float])
    state: dict[str, Any] = field(default_factory=dict[str, Any])

    def note(self, parts: list[bytes]) -> None:
        topic, head = parts[0].decode(), json.loads(parts[1])
        self.messages[topic] += 1
        before = self.last.get(topic)
        if before is not None and head["seq"] != before + 1:
            self.gaps[topic] += head["seq"] - before - 1
        self.last[topic] = head["seq"]
        if topic == "state":
            self.state = head if "frames_done" in head else self.state
        elif "hold" in head:
            self.holds.append(head["hold"])
        elif topic == "telemetry/daemon":
            self.lags_s.append(head["values"]["loop_lag_s"])

    @property
    def hold_errors_s(self) -> list[float]:
        return [(h["crossed_down_ns"] - h["crossed_up_ns"]) * 1e-9 - HOLD_S for h in self.holds]


def follow(endpoint: str, seen: Seen, over: threading.Event) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as link:
        link.set(zmq.RCVHWM, 0)
        link.set(zmq.LINGER, 0)
        link.connect(endpoint)
        link.subscribe(b"")
        while not over.is_set():
            if link.poll(100):
                seen.note(link.recv_multipart())


@dataclass
class Memory:
    """Samples of one process's resident memory."""

    at_s: list[float] = field(default_factory=list[float])
    megabytes: list[float] = field(default_factory=list[float])

    def slope(self, after: float = 0.25) -> tuple[float, float]:
        """Growth per wall second after a part of the time, and half its 95 % interval."""
        at, size = np.array(self.at_s), np.array(self.megabytes)
        chosen = at >= at[0] + after * (at[-1] - at[0])
        at, size = at[chosen], size[chosen]
        if len(at) < 8:
            return math.nan, math.nan
        slope, offset = np.polyfit(at, size, 1)
        rest = size - (slope * at + offset)
        # Neighbouring samples hardly differ: only so many tell something of their own.
        about = np.corrcoef(rest[:-1], rest[1:])[0, 1] if rest.std() > 0 else 0.0
        about = 0.0 if math.isnan(about) else min(max(about, 0.0), 0.99)
        own = max(4.0, len(at) * (1 - about) / (1 + about))
        error = rest.std() / (at.std() * math.sqrt(own - 2))
        return float(slope), float(1.96 * error)


def family(root: psutil.Process) -> Iterator[tuple[str, psutil.Process]]:
    yield "daemon", root
    for child in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            yield child.cmdline()[2].removeprefix("pyrotome."), child


def sample(root: psutil.Process, memory: dict[str, Memory], began_s: float) -> None:
    for name, process in family(root):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory.setdefault(name, Memory())
            memory[name].at_s.append(time.monotonic() - began_s)
            memory[name].megabytes.append(process.memory_info().rss / 1e6)


@dataclass
class Soaked:
    """What came out."""

    code: int
    wall_s: float
    seen: Seen
    memory: dict[str, Memory]
    text: str


def run(folder: Path, hours: float, speed: float, sample_every_s: float, mqtt: bool) -> Soaked:
    """Carry it out and watch it to its end."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(hours)))
    seen, memory, over = Seen(), dict[str, Memory](), threading.Event()
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(mosquitto(folder)) if mqtt else None
        (folder / "rig.yaml").write_text(yaml.safe_dump(rig(sample_every_s, broker)))
        errors = stack.enter_context((folder / "errors.txt").open("w"))
        began_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "pyrotome.daemon", "run", "recipe.yaml", "--rig", "rig.yaml",
             "-o", "soak.nxs", "--speed", f"{speed:g}"],
            cwd=folder, stderr=errors, stdout=subprocess.DEVNULL,
            env={**os.environ, "COLUMNS": "250"},
        )  # fmt: skip
        listener: threading.Thread | None = None
        try:
            while process.poll() is None:
                text = (folder / "errors.txt").read_text()
                rest = text.partition("--endpoint")[2].split()
                if listener is None and rest:
                    where = rest[0].rstrip(",")
                    listener = threading.Thread(target=follow, args=(where, seen, over))
                    listener.start()
                sample(psutil.Process(process.pid), memory, began_s)
                time.sleep(1.0)
        except psutil.NoSuchProcess:
            pass
        finally:
            if process.poll() is None:
                process.terminate()
            code = process.wait(120)
            over.set()
            if listener is not None:
                listener.join()
    return Soaked(
        code, time.monotonic() - began_s, seen, memory, (folder / "errors.txt").read_text()
    )


def report(soaked: Soaked, file: Path, speed: float) -> bool:
    """Print it; whether everything was as it should be."""
    seen, errors = soaked.seen, np.abs(soaked.seen.hold_errors_s or [math.nan])
    print(f"  exit code {soaked.code}, {soaked.wall_s:.0f} s of wall time")
    lost = sum(seen.gaps.values())
    print(
        f"  messages   {sum(seen.messages.values())} on {len(seen.messages)} topics, "
        f"{lost} missing {dict(seen.gaps) or ''}"
    )
    print(
        f"  holds      {len(seen.holds)} of {HOLD_S:g} s, error median {np.median(errors):.3f} s, "
        f"worst {errors.max():.3f} s (experiment time)"
    )
    lags = np.array(seen.lags_s or [math.nan]) * 1e3
    print(f"  loop lag   median {np.median(lags):.1f} ms, worst {lags.max():.1f} ms (wall time)")
    with h5py.File(file) as opened:
        status = opened["entry/run/status"][()].rstrip(b"\0").decode()
        samples = opened["entry/telemetry/heater/temperature_c/value"].shape[0]
    print(
        f"  file       {status}, {seen.state.get('frames_done')} frames, "
        f"{seen.state.get('frames_lost')} lost, {samples} heater samples, "
        f"{file.stat().st_size / 1e6:.0f} MB"
    )
    flat = True
    day_s = 86400 / speed
    print("  process                     start MB   end MB   per simulated day, 95 % interval")
    for name, memory in soaked.memory.items():
        slope, error = memory.slope()
        grows = slope * day_s - error * day_s > GROWTH_MB_PER_DAY
        flat = flat and not grows
        print(
            f"  {name:26} {memory.megabytes[0]:8.1f} {memory.megabytes[-1]:8.1f}   "
            f"{slope * day_s:+8.1f} +- {error * day_s:.1f} MB{'   GROWS' if grows else ''}"
        )
    right = bool(np.median(errors) <= MEDIAN_ERROR_S and errors.max() <= WORST_ERROR_S)
    return soaked.code == 0 and lost == 0 and flat and right and status == "complete"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0, help="simulated hours")
    parser.add_argument("--speed", type=float, default=60.0)
    parser.add_argument("--sample-every-s", type=float, default=0.1, help="of the simulated heater")
    parser.add_argument("--no-mqtt", action="store_true")
    parser.add_argument("--find", action="store_true", help="find the highest speed that holds")
    arguments = parser.parse_args()
    speeds = SPEEDS if arguments.find else (arguments.speed,)
    right = True
    for speed in speeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            print(f"{arguments.hours:g} simulated hours at speed {speed:g}", flush=True)
            soaked = run(
                folder, arguments.hours, speed, arguments.sample_every_s, not arguments.no_mqtt
            )
            if not (folder / "soak.nxs").exists():
                print(soaked.text[-2000:])
                return 1
            right = report(soaked, folder / "soak.nxs", speed)
            print("  all right" if right else "  NOT right", flush=True)
            if soaked.code:
                print(soaked.text[-2000:])
            if not right and arguments.find:
                break
    return 0 if right or arguments.find else 1


if __name__ == "__main__":
    sys.exit(main())
