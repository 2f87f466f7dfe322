"""A simulated microscope in a process of its own, which outlives the daemon as a real one does.

Its simulators are one process with fixed ports and a log of what truly happened, which is the
witness of rows and rounds; faults are switched in mid-run; it can be killed and started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command_line as commands
import yaml

from pyrotome.protocols.config.rig import Rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.units import fluence_e_per_nm2
from pyrotome.protocols.messages.parent_pipe import dump_config
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig

SAFE_C = 25.0
# Colder than this the heater is at its safe level: its noise and the last of a decay are less.
SAFE_WITHIN_C = 10.0

RIG: dict[str, Any] = {
    **commands.RIG,
    "name": "microscope beside the daemon",
    "heater": {**commands.RIG["heater"], "limits": {"settle": "0.1 s"}},
    "stage": {
        **commands.RIG["stage"],
        "limits": {**commands.RIG["stage"]["limits"], "settle": "0.05 s"},
    },
    "simulator": {
        "specimen": {"kind": "cu-sintering", "particles": 4},
        "goniometer": {"speed": "60 deg/s", "settling": "0.02 s"},
        # A chip that is where it should be at once: what is tested is not its overshoot.
        "chip": {"overshoot": 0.0},
    },
}


@dataclass(frozen=True)
class Log:
    """What the simulated world has logged; times are UTC of its own clock."""

    events: Sequence[dict[str, Any]]

    def of(self, kind: str, after_ns: int = 0) -> list[dict[str, Any]]:
        """Events of a kind since a time, in order of time."""
        found = [e for e in self.events if e["event"] == kind and e["t_ns"] >= after_ns]
        return sorted(found, key=lambda e: e["t_ns"])

    @property
    def blanked(self) -> bool:
        """Whether the beam is blanked at the end."""
        beam = self.of("beam")
        return not beam or bool(beam[-1]["blanked"])

    @property
    def setpoint_c(self) -> float:
        """The heater's last target."""
        heater = self.of("heater")
        return float(heater[-1]["target_c"]) if heater else SAFE_C

    @property
    def temperature_c(self) -> float:
        """True temperature at the end."""
        readings = self.of("temperature")
        return float(readings[-1]["temperature_c"]) if readings else SAFE_C

    @property
    def safe(self) -> bool:
        """Whether the beam is blanked, the setpoint is the safe level and the chip is cold."""
        cold = abs(self.temperature_c - SAFE_C) <= SAFE_WITHIN_C
        return self.blanked and cold and self.setpoint_c == SAFE_C

    def cold_after_s(self, t_ns: int) -> float:
        """Seconds from a time until the chip was hot for the last time."""
        hot = [
            e["t_ns"] for e in self.of("temperature", t_ns)
            if e["temperature_c"] > SAFE_C + SAFE_WITHIN_C
        ]  # fmt: skip
        return (hot[-1] - t_ns) * 1e-9 if hot else 0.0

    def dark_after_s(self, t_ns: int) -> float:
        """Seconds from a time until the beam stayed blanked; infinite if it did not."""
        dark_ns: int | None = None
        for event in self.of("beam"):
            if not event["blanked"]:
                dark_ns = None
            elif dark_ns is None:
                dark_ns = event["t_ns"]
        if dark_ns is None:
            return 0.0 if not self.of("beam") else float("inf")
        return max(0.0, (dark_ns - t_ns) * 1e-9)

    @property
    def exposed_e_per_nm2(self) -> float:
        """Fluence of the exposures that were finished, in e/nm^2."""
        return sum(e["dose_e_per_nm2"] for e in self.events if e["event"] == "exposure")

    @property
    def fluence_e_per_nm2(self) -> float:
        """Fluence of all the time in which the beam was not blanked, in e/nm^2."""
        total, since = 0.0, None
        for event in self.of("beam"):
            if since is not None:
                seconds = (event["t_ns"] - since["t_ns"]) * 1e-9
                total += fluence_e_per_nm2(since["current_pa"], seconds, since["field_nm"] ** 2)
            since = None if event["blanked"] else event
        return total


class Microscope:
    """The process of the simulators: start it, switch faults, kill it, start it again.

    Parameters
    ----------
    folder : Path
        For its logs and the rig that finds it.
    changes
        Keys of the rig to replace; endpoints with port 0 are chosen at the first start and kept.
    """

    def __init__(self, folder: Path, speed: float = 1.0, **changes: Any) -> None:
        self.folder, self.speed = folder, speed
        self.rig = Rig.model_validate({**RIG, **changes})
        self.logs: list[Path] = []
        self._process: subprocess.Popen[str] | None = None
        self._told: Path | None = None
        self._mark = 0
        self.start()

    @property
    def pid(self) -> int:
        """Process id of the process that runs, or ran last."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, on the same ports each time."""
        number = len(self.logs)
        log = self.folder / f"world-{number}.log"
        self._told = self.folder / f"simulators-{number}.txt"
        config = SimulatorConfig(
            rig=self.rig, clock=ClockConfig.of(ExperimentClock(self.speed)), log=str(log)
        )
        with self._told.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pyrotome.simulators"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(dump_config(config))
        self._process.stdin.flush()
        ready = json.loads(self._process.stdout.readline() or '{"error": "died"}')
        assert "error" not in ready, ready
        self.logs.append(log)
        changes: dict[str, Any] = {}
        for role, where in ready["devices"].items():
            entry = self.rig.device(role)
            options = {**entry.options, **where.get("options", {})}
            changes[role] = entry.model_copy(
                update={"endpoint": where["endpoint"], "options": options}
            )
        self.rig = self.rig.model_copy(update=changes)

    def fault(self, text: str) -> None:
        """Switch a fault on, written as on the command line, and wait until it is on."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._told is not None
        before = len(self._told.read_text())
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        end = time.monotonic() + 60
        while text not in (answer := self._told.read_text()[before:]):
            assert time.monotonic() < end, f"{text}: {answer}"
            time.sleep(0.002)
        assert f"switched {text}" in answer, answer

    def well(self) -> None:
        """Clear every fault."""
        for role in ("heater", "stage", "beam", "detector"):
            self.fault(f"{role}:none")

    def write_rig(self, name: str = "rig.yaml", **changes: Any) -> Path:
        """Write a rig that names these simulators as real instruments; returns its path."""
        body = json.loads(self.rig.model_dump_json(by_alias=True, exclude={"simulator"}))
        path = self.folder / name
        path.write_text(yaml.safe_dump({**_without_nothing(body), **changes}))
        return path

    def mark(self) -> None:
        """Let `log` begin here."""
        self._mark = self.logs[-1].stat().st_size

    def log(self, since_mark: bool = True) -> Log:
        """The log of the process that runs, or ran last."""
        with self.logs[-1].open("rb") as file:
            file.seek(self._mark if since_mark else 0)
            raw = file.read()
        return Log(list(_complete_lines(raw)))

    def logs_of_all(self) -> list[Log]:
        """The logs of all processes, one after the other."""
        return [Log(list(_complete_lines(path.read_bytes()))) for path in self.logs]

    def wait_until_safe(self, timeout_s: float) -> Log:
        """Wait until the log says that beam and chip are safe."""
        end = time.monotonic() + timeout_s
        while not (log := self.log(since_mark=False)).safe:
            assert time.monotonic() < end, (
                f"not safe: blanked {log.blanked}, setpoint {log.setpoint_c:g} degC, "
                f"{log.temperature_c:.1f} degC"
            )
            time.sleep(0.05)
        return log

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def close(self) -> None:
        """End it in order."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _complete_lines(raw: bytes) -> Iterator[dict[str, Any]]:
    # The last line of one that was killed may be cut.
    for line in raw.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _without_nothing(body: Any) -> Any:
    if isinstance(body, dict):
        return {k: _without_nothing(v) for k, v in body.items() if v is not None}
    return [_without_nothing(v) for v in body] if isinstance(body, list) else body


def environment() -> dict[str, str]:
    """Environment of a process whose output is read: lines are not wrapped."""
    return {**os.environ, "COLUMNS": "250"}
