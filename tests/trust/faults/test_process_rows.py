"""Rows of the catalogue: signals, terminals and ports of the daemon's own process.

Here `pyrotome run` is a process of its own, and the microscope stands beside it.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from command_line import TINY

RECIPE: dict[str, Any] = {
    "title": "Row of the fault catalogue",
    **TINY,
    "steps": [
        {"heat": {"to": "200 degC"}},
        {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "10 deg"}},
        {"cycle": {"standby": "200 degC", "processing": "350 degC", "holds": ["60 s"]}},
    ],
}  # fmt: skip
START_S = 180.0


class Run:
    """`pyrotome run` on the shared microscope."""

    def __init__(self, microscope: Any, folder: Path, reaction: Any) -> None:
        self.microscope, self.folder, self.reaction = microscope, folder, reaction
        self.errors = folder / "errors.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.relatives: list[psutil.Process] = []

    def start(self, *more: str, hold_s: float = 60.0, **options: Any) -> subprocess.Popen[bytes]:
        """Start it; `options` are those of Popen."""
        recipe = self.folder / "recipe.yaml"
        steps = [dict(step) for step in RECIPE["steps"]]
        steps[-1] = {"cycle": {**steps[-1]["cycle"], "holds": [f"{hold_s:g} s"]}}
        recipe.write_text(yaml.safe_dump({**RECIPE, "steps": steps}))
        rig = self.microscope.write_rig("row.yaml")
        with self.errors.open("w") as errors:
            chosen = {"stdout": subprocess.DEVNULL, "stderr": errors, **options}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pyrotome.daemon", "run", str(recipe), "--rig", str(rig),
                 "-o", str(self.folder / "run.nxs"), *more],
                env={**os.environ, "COLUMNS": "250"}, **chosen,
            )  # fmt: skip
        return self.process

    @property
    def text(self) -> str:
        return self.errors.read_text(errors="replace")

    def until_hot(self) -> None:
        """Wait until the chip is held hot, in the middle of the run."""
        end = time.monotonic() + START_S
        assert self.process is not None
        while self.microscope.log().temperature_c < 340:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.05)
        self.relatives = psutil.Process(self.process.pid).children(recursive=True)

    def ended(self, code: int) -> None:
        """Wait for its end, and for that of all its processes; then the microscope must be safe."""
        assert self.process is not None
        status = self.process.wait(max(1.0, self.reaction.left_s))
        self.microscope.wait_until_safe(max(1.0, self.reaction.left_s))
        self.reaction.ends()
        assert status == code, self.text
        assert "Traceback" not in self.text
        _, left = psutil.wait_procs(self.relatives, timeout=60)
        assert not left, left

    def recovered(self) -> None:
        """The file opens after `pyrotome recover`, and has the frames that were taken."""
        done = subprocess.run(
            [sys.executable, "-m", "pyrotome.daemon", "recover", str(self.folder / "run.nxs")],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        from pyrotome.protocols.runfile.summary import inspect_file

        assert inspect_file(self.folder / "run.nxs")["frames"] == 3

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for relative in self.relatives:
            with contextlib.suppress(psutil.NoSuchProcess):
                relative.kill()
        psutil.wait_procs(self.relatives, timeout=5)


@pytest.fixture
def run(well: Any, reaction: Any, tmp_path: Path) -> Any:
    run = Run(well, tmp_path, reaction)
    yield run
    run.close()


@pytest.mark.fault(
    broken="the daemon is killed in a hold", must="heater cold within 1 s, file recovers",
    within_s=60,
)  # fmt: skip
def test_daemon_killed(run: Any) -> None:
    process = run.start()
    run.until_hot()
    run.reaction.begins()
    killed_ns = time.time_ns()
    process.kill()
    run.ended(-signal.SIGKILL)
    log = run.microscope.log()
    run.reaction.ends(max(log.cold_after_s(killed_ns), log.dark_after_s(killed_ns)))
    # The promise is 1 s; a busy computer is granted more here, and `make chaos` holds to it.
    assert run.reaction.took_s < 10
    run.recovered()


@pytest.mark.fault(
    broken="the daemon is frozen in a hold", must="the guardian kills it, heater cold", within_s=60
)
def test_daemon_frozen(run: Any) -> None:
    run.microscope.rig = run.microscope.rig.model_copy(
        update={"guardian": run.microscope.rig.guardian.model_copy(update={"timeout_s": 4.0})}
    )
    process = run.start()
    run.until_hot()
    run.reaction.begins()
    process.send_signal(signal.SIGSTOP)
    run.ended(-signal.SIGKILL)
    run.recovered()


@pytest.mark.fault(
    broken="the guardian is killed", must="it is said, another one watches, the run goes on",
    within_s=60,
)  # fmt: skip
def test_guardian_killed(run: Any) -> None:
    process = run.start()
    run.until_hot()
    run.reaction.begins()
    guardian = [p for p in run.relatives if "pyrotome.daemon.safety.guardian" in p.cmdline()]
    assert len(guardian) == 1
    guardian[0].kill()
    while "another guardian watches" not in run.text:
        assert process.poll() is None, run.text
        assert run.reaction.left_s > 0, run.text
        time.sleep(0.05)
    assert run.microscope.log().setpoint_c == 350
    process.send_signal(signal.SIGINT)
    run.ended(130)
    assert "the guardian died" in run.text


@pytest.mark.fault(
    broken="the daemon and its guardian are killed together",
    must="no process is left, the file recovers; nobody can cool the heater", within_s=60,
)  # fmt: skip
def test_daemon_and_guardian_killed(run: Any, own_microscope: Any) -> None:
    run.microscope = own_microscope
    process = run.start()
    run.until_hot()
    run.reaction.begins()
    for relative in run.relatives:
        if "pyrotome.daemon.safety.guardian" in relative.cmdline():
            relative.kill()
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(run.relatives, timeout=60)
    assert not left
    run.reaction.ends()
    run.recovered()
    # The honest limit: two processes that die together leave nobody who could.
    assert own_microscope.log().setpoint_c == 350


@pytest.mark.fault(broken="Ctrl-C twice", must="heater cold, exit 130, file closed", within_s=60)
def test_ctrl_c_twice(run: Any) -> None:
    process = run.start()
    run.until_hot()
    run.reaction.begins()
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    run.ended(130)
    run.recovered()


@pytest.mark.fault(broken="SIGTERM", must="heater cold, exit 130, file closed", within_s=60)
def test_sigterm(run: Any) -> None:
    process = run.start()
    run.until_hot()
    run.reaction.begins()
    process.send_signal(signal.SIGTERM)
    run.ended(130)
    run.recovered()


@pytest.mark.fault(broken="the terminal dies", must="heater cold, exit 130", within_s=60)
def test_terminal_dies(run: Any) -> None:
    terminal, line = pty.openpty()
    try:
        run.start(
            stdin=line, stdout=line, stderr=line, start_new_session=True, preexec_fn=_take_terminal
        )
        os.close(line)
        run.until_hot()
        run.reaction.begins()
    finally:
        os.close(terminal)
    run.ended(130)
    run.recovered()


@pytest.mark.fault(
    broken="the terminal stands still (Ctrl-S)", must="the run completes", within_s=120
)
def test_terminal_stands_still(run: Any) -> None:
    terminal, line = pty.openpty()
    try:
        fill = os.dup(line)
        os.set_blocking(fill, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fill, b"x" * 100)
        os.set_blocking(fill, True)
        os.close(fill)
        run.reaction.begins()
        run.start(hold_s=1.0, stdin=line, stdout=subprocess.DEVNULL, stderr=line)
        os.close(line)
        run.ended(0)
    finally:
        os.close(terminal)
    run.recovered()


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.fault(
    broken="standard input, output and errors are closed", must="the run completes", within_s=90
)
def test_streams_closed(run: Any) -> None:
    run.reaction.begins()
    run.start(hold_s=0.5, stdin=None, stdout=None, stderr=None, preexec_fn=_close_streams)
    run.ended(0)
    run.recovered()


def _close_streams() -> None:
    for number in (0, 1, 2):
        os.close(number)


@pytest.mark.fault(
    broken="the output exists", must="exit 2, the file as it was, nothing heated", within_s=60
)
def test_output_exists(run: Any) -> None:
    file = run.folder / "run.nxs"
    file.write_bytes(b"years of work")
    run.reaction.begins()
    run.start()
    run.ended(2)
    assert "exists already" in run.text
    assert file.read_bytes() == b"years of work"
    assert not run.microscope.log().of("heater")


@pytest.mark.fault(
    broken="the control port is in use", must="exit 2, the port is named, nothing heated",
    within_s=60,
)  # fmt: skip
def test_port_in_use(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        rig = run.microscope.rig
        streams = rig.streams.model_copy(update={"control": endpoint})
        run.microscope.rig = rig.model_copy(update={"streams": streams})
        try:
            run.reaction.begins()
            run.start()
            run.ended(2)
        finally:
            run.microscope.rig = rig
    assert endpoint in run.text
    assert not [e for e in run.microscope.log().of("heater") if e["target_c"] > 25]


@pytest.mark.fault(
    broken="a second daemon on the instrument", must="the first run is not disturbed",
    within_s=90,
)  # fmt: skip
def test_two_daemons(run: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    process = run.start(hold_s=20.0)
    run.until_hot()
    run.reaction.begins()
    second = Run(run.microscope, tmp_path_factory.mktemp("second"), run.reaction)
    try:
        other = second.start(hold_s=0.5)
        code = other.wait(60)
        assert code == 3, second.text
        assert "another pyrotome daemon" in second.text
        assert "Traceback" not in second.text
        assert process.poll() is None, run.text
        assert run.microscope.log().setpoint_c == 350
        run.ended(0)
    finally:
        second.close()
