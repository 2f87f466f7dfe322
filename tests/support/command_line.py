"""Run the command line as a user does: small recipes, free ports, and its processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from pyrotome.protocols.config.rig import SIMULATED_RIG

RECIPE: dict[str, Any] = {
    "title": "Small experiment",
    "sample": {"name": "Cu NP", "elements": ["Cu"]},
    "beam": {
        "voltage": "300 kV",
        "current": "2 pA",
        "dwell": "10 us",
        "frame": [64, 64],
        "pixel_size": "16 nm",
    },
    "limits": {"temperature": "900 degC", "dose": "100 e/nm^2"},
    "steps": [
        {"heat": {"to": "200 degC", "rate": "300 degC/s", "hold": "0.5 s"}},
        {"reference": {"frames": 2}},
        {
            "cycle": {
                "standby": "200 degC",
                "processing": "350 degC",
                "holds": ["1 s", "2 s"],
                "then": [{"tilt_series": {"from": "-20 deg", "to": "20 deg", "step": "10 deg"}}],
            }
        },
    ],
    "analysis": [{"reconstruct": {"method": "sirt", "iterations": 3, "binning": 2}}],
}

# What every recipe of a tiny specimen begins with: frames that cost next to nothing.
TINY: dict[str, Any] = {
    "sample": RECIPE["sample"],
    "beam": {**RECIPE["beam"], "frame": [32, 32], "pixel_size": "32 nm"},
}

# For tests to which it does not matter what is measured.
SHORT_STEPS: list[dict[str, Any]] = [
    {"heat": {"to": "100 degC", "rate": "300 degC/s"}},
    {"reference": {"frames": 2}},
    {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "10 deg"}},
]

RIG: dict[str, Any] = {
    **SIMULATED_RIG,
    "name": "simulated microscope of the tests",
    "stage": {
        **SIMULATED_RIG["stage"],
        "limits": {"tilt": ["-60 deg", "60 deg"], "speed": "60 deg/s", "settle": "0.1 s"},
    },
    # A busy computer may hold a daemon up for seconds; its death is noticed at once all the same.
    "guardian": {"timeout": "20 s"},
    "streams": {"monitor": "tcp://127.0.0.1:*", "control": "tcp://127.0.0.1:*"},
    "simulator": {
        "specimen": {"kind": "cu-sintering", "particles": 6},
        "goniometer": {"speed": "60 deg/s"},
    },
}


class Running:
    """A ``pyrotome`` process in the background, and its output so far."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self._errors = (folder / f"stderr-{time.monotonic_ns()}").open("w+")
        self._output = (folder / f"stdout-{time.monotonic_ns()}").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyrotome.daemon", *arguments],
            cwd=folder,
            stdout=self._output,
            stderr=self._errors,
            env={**os.environ, "COLUMNS": "200"},
        )
        self._family: list[psutil.Process] = []

    def text(self) -> str:
        """Everything on standard error so far."""
        return Path(self._errors.name).read_text()

    def wait_for(self, text: str, timeout_s: float = 120.0) -> str:
        """Wait until a text has been written; returns everything written."""
        end = time.monotonic() + timeout_s
        while text not in self.text():
            assert self.process.poll() is None, f"ended: {self.text()}"
            assert time.monotonic() < end, f"{text!r} did not come: {self.text()}"
            time.sleep(0.02)
        return self.text()

    def endpoint(self, word: str) -> str:
        """The endpoint that follows a word in what was written."""
        text = self.wait_for(word)
        while not text.split(word, 1)[1].strip():
            text = self.text()
        return text.split(word, 1)[1].split()[0].rstrip(",;")

    @property
    def monitor(self) -> str:
        """Its monitor endpoint."""
        return self.endpoint("--endpoint")

    @property
    def control(self) -> str:
        """Its control endpoint."""
        return self.endpoint("control on")

    def children(self) -> dict[str, psutil.Process]:
        """Its child processes by module name."""
        found: dict[str, psutil.Process] = {}
        for child in psutil.Process(self.process.pid).children():
            # One between fork and exec has no command line of its own yet.
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                found[child.cmdline()[2]] = child
        return found

    def interrupt(self) -> None:
        """Send it what Ctrl-C sends."""
        self.process.send_signal(signal.SIGINT)

    def wait(self, timeout_s: float = 180.0) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._errors.close()
        self._output.close()


class Cli:
    """Runs ``pyrotome`` in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Running] = []

    def recipe(self, **changes: Any) -> str:
        """Write the small recipe with some keys replaced; returns its path."""
        path = self.folder / f"recipe-{time.monotonic_ns()}.yaml"
        path.write_text(yaml.safe_dump({**RECIPE, **changes}))
        return str(path)

    def short_recipe(self) -> str:
        """Write a recipe of five frames that takes a few seconds; returns its path."""
        return self.recipe(steps=SHORT_STEPS)

    def rig(self, **changes: Any) -> str:
        """Write the simulated rig with some keys replaced; returns its path."""
        path = self.folder / f"rig-{time.monotonic_ns()}.yaml"
        path.write_text(yaml.safe_dump({**RIG, **changes}))
        return str(path)

    def __call__(self, *arguments: str, timeout_s: float = 180.0) -> Any:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "pyrotome.daemon", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "COLUMNS": "200"},
        )

    def start(self, *arguments: str) -> Running:
        """Start a command in the background; it is ended with the test."""
        running = Running(list(arguments), self.folder)
        self._running.append(running)
        return running

    def inspect(self, file: str) -> dict[str, Any]:
        """What a run file of this folder holds."""
        done = self("inspect", file, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        """End everything that was started."""
        for running in self._running:
            running.close()
