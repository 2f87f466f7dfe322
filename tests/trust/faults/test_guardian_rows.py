"""Rows of the catalogue: the daemon dies or does not respond, and its guardian acts.

The simulated world's own log says when the beam was blanked and the heater sent to safety.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

GUARDIAN, SIMULATORS = "pyrotome.daemon.safety.guardian", "pyrotome.simulators"
PATIENCE_S = 180.0
HOLD = [
    {"heat": {"to": "200 degC", "rate": "300 degC/s"}},
    {"cycle": {"standby": "200 degC", "processing": "350 degC", "holds": ["600 s"]}},
]
EXPOSE = [
    {"heat": {"to": "200 degC", "rate": "300 degC/s"}},
    {"reference": {"frames": 2000}},
]
LONG_EXPOSURES = {
    "voltage": "300 kV", "current": "2 pA", "dwell": "200 us", "frame": [64, 64],
    "pixel_size": "16 nm",
}  # fmt: skip


# A command line whose controlling terminal is its standard input.
TAKES_TERMINAL = """
import fcntl, termios
from pyrotome.daemon.cli.app import main
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
main()
"""


def until(so: Callable[[], Any]) -> Any:
    """Wait until something holds; returns it."""
    end = time.monotonic() + PATIENCE_S
    while not (found := so()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


class World:
    """What the simulated world says has happened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, event: str) -> list[dict[str, Any]]:
        text = self.path.read_text() if self.path.exists() else ""
        found = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [line for line in found if line["event"] == event]

    def last(self, event: str, key: str) -> Any:
        found = self.lines(event)
        return found[-1][key] if found else None

    def is_safe(self) -> bool:
        return self.last("beam", "blanked") is True and self.last("heater", "target_c") == 25.0

    def safe_ns(self, after_ns: int) -> int:
        """When, after a moment, the heater was sent to safety and the beam was blanked."""
        heater = [e for e in self.lines("heater") if e["t_ns"] > after_ns and e["target_c"] == 25.0]
        beam = [e for e in self.lines("beam") if e["t_ns"] > after_ns and e["blanked"]]
        return max(heater[0]["t_ns"], beam[0]["t_ns"])


@pytest.fixture
def world(cli: Any) -> World:
    """The log of the run under way."""
    return World(cli.folder / "world.log")


def begin(cli: Any, rig: str | None = None, **recipe: Any) -> Any:
    """Start a run whose world writes a log."""
    recipe = {"analysis": [], "limits": {}, **recipe}
    return cli.start(
        "run", cli.recipe(**recipe), "--rig", rig or cli.rig(), "-o", "run.nxs",
        "--simulator-log", "world.log",
    )  # fmt: skip


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    return not alive


def guardian_line(cli: Any) -> dict[str, Any]:
    """What the guardian has noted in the journal of the run."""
    lines = (cli.folder / "run.nxs.journal").read_text().splitlines()
    (found,) = [line for line in map(json.loads, lines) if line.get("kind") == "guardian"]
    return found


def struck(running: Any, number: int) -> int:
    """Send a signal; returns the moment on the clock of a run at speed 1."""
    now_ns = time.time_ns()
    running.process.send_signal(number)
    return now_ns


@pytest.mark.fault(
    broken="kill -9 of the daemon in a hold", must="beam blanked, heater commanded to safety",
    within_s=1.0,
)  # fmt: skip
def test_killed_in_a_hold(cli: Any, world: World, reaction: Any) -> None:
    running = begin(cli, steps=HOLD)
    until(lambda: world.last("heater", "target_c") == 350.0)
    children = list(running.children().values())
    assert {c.cmdline()[2] for c in children} >= {GUARDIAN, SIMULATORS}
    reaction.begins()
    killed_ns = struck(running, signal.SIGKILL)
    until(world.is_safe)
    assert gone(children)
    reaction.ends((world.safe_ns(killed_ns) - killed_ns) * 1e-9)
    found = guardian_line(cli)
    assert found["reason"] == "the daemon died"
    for key in ("t_ns", "heater_commanded_ns", "beam_blanked_ns", "heater_safe_ns"):
        assert 0 <= found[key] - killed_ns < 30e9, key
    assert found["heater_commanded_ns"] <= found["heater_safe_ns"]
    assert "guardian: heater at its safe level" in running.text()


@pytest.mark.fault(
    broken="kill -9 of the daemon in an exposure", must="beam blanked, heater commanded to safety",
    within_s=1.0,
)  # fmt: skip
def test_killed_in_an_exposure(cli: Any, world: World, reaction: Any) -> None:
    running = begin(cli, steps=EXPOSE, beam=LONG_EXPOSURES)
    until(lambda: len(world.lines("exposure")) > 2)
    children = list(running.children().values())
    until(lambda: world.last("beam", "blanked") is False)
    reaction.begins()
    killed_ns = struck(running, signal.SIGKILL)
    until(world.is_safe)
    assert gone(children)
    reaction.ends((world.safe_ns(killed_ns) - killed_ns) * 1e-9)
    assert guardian_line(cli)["reason"] == "the daemon died"


@pytest.mark.fault(
    broken="the daemon stands still (SIGSTOP)",
    must="it is killed, beam blanked, heater commanded to safety", within_s=2.0,
)  # fmt: skip
def test_stopped_daemon(cli: Any, world: World, reaction: Any) -> None:
    rig = cli.rig(guardian={"timeout": "1 s"})
    running = begin(cli, rig, steps=HOLD)
    until(lambda: world.last("heater", "target_c") == 350.0)
    children = list(running.children().values())
    reaction.begins()
    stopped_ns = struck(running, signal.SIGSTOP)
    until(world.is_safe)
    assert running.wait() == -signal.SIGKILL, "it might have woken up and heated again"
    assert gone(children)
    reaction.ends((world.safe_ns(stopped_ns) - stopped_ns) * 1e-9)
    assert guardian_line(cli)["reason"] == "no heartbeat from the daemon for 1 s"


@pytest.mark.fault(
    broken="the daemon is killed and the beam's wire is dead",
    must="the heater is commanded to safety all the same", within_s=1.0,
)  # fmt: skip
def test_killed_with_a_dead_beam(cli: Any, world: World, reaction: Any) -> None:
    running = cli.start(
        "run", cli.recipe(steps=HOLD, analysis=[], limits={}),
        "--rig", cli.rig(beam={"driver": "temscript-beam", "endpoint": "http://localhost:0"}),
        "-o", "run.nxs", "--simulator-log", "world.log", "--simulator-fault", "beam:hang@15 s",
    )  # fmt: skip
    until(lambda: world.last("heater", "target_c") == 350.0)
    until(lambda: "does not report its state" in running.text())
    children = running.children()
    reaction.begins()
    killed_ns = struck(running, signal.SIGKILL)
    until(lambda: world.last("heater", "target_c") == 25.0)
    heater = [e for e in world.lines("heater") if e["t_ns"] > killed_ns]
    reaction.ends((heater[0]["t_ns"] - killed_ns) * 1e-9)
    # It would go on trying to blank the beam for a minute; the simulators live as long.
    until(lambda: "guardian: heater at its safe level" in running.text())
    assert children[SIMULATORS].is_running()
    assert children[GUARDIAN].is_running()
    children[GUARDIAN].kill()
    assert gone(list(children.values()))


@pytest.mark.fault(
    broken="the terminal dies in a hold", must="the run ends safely, the guardian stays aside",
    within_s=15.0,
)  # fmt: skip
def test_dead_terminal(cli: Any, world: World, reaction: Any) -> None:
    terminal, line = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable, "-c", TAKES_TERMINAL, "run",
            cli.recipe(steps=HOLD, analysis=[], limits={}), "--rig", cli.rig(), "-o", "run.nxs",
            "--simulator-log", "world.log",
        ],
        cwd=cli.folder, stdin=line, stdout=line, stderr=line, start_new_session=True,
    )  # fmt: skip
    os.close(line)
    try:
        os.set_blocking(terminal, False)

        def hot() -> bool:
            with contextlib.suppress(BlockingIOError):
                os.read(terminal, 65_536)
            return world.last("heater", "target_c") == 350.0

        until(hot)
        family = psutil.Process(process.pid).children()
        os.close(terminal)
        reaction.begins()
        until(world.is_safe)
        reaction.ends()
        process.wait(PATIENCE_S)
        assert gone(family)
    finally:
        process.kill()
        process.wait()
    assert cli.inspect("run.nxs")["status"] == "aborted"
    assert (
        not (cli.folder / "run.nxs.journal").exists()
        or "guardian" not in (cli.folder / "run.nxs.journal").read_text()
    )


def test_an_orderly_end_leaves_the_guardian_nothing_to_do(cli: Any, world: World) -> None:
    running = begin(cli, steps=[{"heat": {"to": "100 degC", "rate": "300 degC/s"}}])
    assert running.wait() == 0, running.text()
    assert "guardian" not in running.text()
    targets = [e["target_c"] for e in world.lines("heater")]
    assert targets == [100.0, 25.0], "nobody else has commanded it"


@pytest.mark.fault(
    broken="kill -9 of a daemon that regulates a chip by a Keithley 2450 (TCP)",
    must="its output is turned off", within_s=1.0,
)  # fmt: skip
def test_killed_with_a_keithley(cli: Any, world: World, reaction: Any, request: Any) -> None:
    keithley(cli, world, reaction, request, "keithley-2450", "tcp://127.0.0.1:0")


@pytest.mark.fault(
    broken="kill -9 of a daemon that regulates a chip by a Keithley 2400 (RS-232)",
    must="its output is turned off", within_s=2.0,
)  # fmt: skip
def test_killed_with_a_serial_keithley(cli: Any, world: World, reaction: Any, request: Any) -> None:
    keithley(cli, world, reaction, request, "keithley-2400", "serial://auto")


def keithley(
    cli: Any, world: World, reaction: Any, request: Any, driver: str, endpoint: str
) -> None:
    file = request.config.rootpath / "examples" / "rigs" / "chip_calibration.json"
    options = {"calibration_file": str(file)} | ({"baud": 57600} if "serial" in endpoint else {})
    rig = cli.rig(heater={"driver": driver, "endpoint": endpoint, "options": options})
    running = begin(cli, rig, steps=[{"heat": {"to": "300 degC", "hold": "600 s"}}])
    until(lambda: (world.last("temperature", "temperature_c") or 0) > 290)
    children = list(running.children().values())
    reaction.begins()
    killed_ns = struck(running, signal.SIGKILL)
    until(lambda: world.last("drive", "on") is False)
    assert gone(children), running.text()
    off = [e for e in world.lines("drive") if e["t_ns"] > killed_ns and not e["on"]]
    reaction.ends((off[0]["t_ns"] - killed_ns) * 1e-9)
    assert guardian_line(cli)["heater_safe_ns"] is not None
