"""A disk that is full or read-only: the schedule waits at standby, says why, and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from pyrotome.daemon.recording.recovery import recover
from pyrotome.protocols.core.errors import BadInput

STEPS: list[dict[str, Any]] = [
    {"heat": {"to": "200 degC", "rate": "300 degC/s"}},
    {"reference": {"frames": 2}},
    {"cycle": {
        "standby": "200 degC", "processing": "350 degC", "holds": ["0.5 s"] * 4,
        "then": [{"tilt_series": {"from": "-20 deg", "to": "20 deg", "step": "5 deg"}}],
    }},
]  # fmt: skip
FRAMES = 2 + 4 * 9
LOG = ("--simulator-log", "world.log")


class Disk:
    """A small file system of its own, as root has it."""

    def __init__(self, folder: Path, *mount: str) -> None:
        self.folder = folder
        folder.mkdir()
        done = subprocess.run(["mount", *mount, str(folder)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")

    def fill(self, free_bytes: int) -> None:
        with (self.folder / "ballast").open("xb") as file:
            while True:  # the run takes some of what was free meanwhile
                disk = os.statvfs(self.folder)
                size = disk.f_bavail * disk.f_frsize - free_bytes
                if size <= 0:
                    return
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                    return
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def make_room(self) -> None:
        (self.folder / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True, timeout=60)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk", "-t", "tmpfs", "-o", "size=96m", "tmpfs")
    yield disk
    disk.close()


class Monitor:
    """What an outside witness learns."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.SUBSCRIBE, b"state")
        self._socket.set(zmq.SUBSCRIBE, b"event")
        self._socket.connect(endpoint)
        self.events: list[str] = []
        self.state: dict[str, Any] = {}
        self.durable = 0

    def wait_until(self, there: Callable[[], bool], timeout_s: float = 90.0) -> None:
        end = time.monotonic() + timeout_s
        while not there():
            assert time.monotonic() < end, (self.state, self.events[-5:])
            if not self._socket.poll(200):
                continue
            topic, raw, *_ = self._socket.recv_multipart()
            header = json.loads(raw)
            if topic == b"event":
                self.events.append(header["message"])
                continue
            self.state = header
            self.durable = max(self.durable, (header.get("recorder") or {}).get("durable", 0))

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def run(cli: Any, disk: Disk) -> Iterator[tuple[Any, Monitor]]:
    """A run under way with a part of its frames acknowledged, its file on a small disk."""
    recipe = cli.recipe(steps=STEPS, analysis=[])
    file = str(disk.folder / "run.nxs")
    running = cli.start("run", recipe, "--rig", cli.rig(), "-o", file, *LOG)
    monitor = Monitor(running.monitor)
    monitor.wait_until(lambda: monitor.durable >= 5)
    yield running, monitor
    monitor.close()
    running.close()


def wait_at_standby(monitor: Monitor, why: str, advice: str = "Make room") -> None:
    """Until the schedule waits, and says for whom and why."""
    monitor.wait_until(
        lambda: why in ((monitor.state.get("waiting_for") or {}).get("recorder", ""))
    )
    # The engine says so, or the journal, where that is what cannot be written first.
    monitor.wait_until(lambda: any("at standby" in event for event in monitor.events))
    assert any(re.search(advice, event) and why in event for event in monitor.events)
    assert why in monitor.state["recorder"]["problem"]
    done = monitor.state["frames_done"]
    stamp = monitor.state["t_ns"]
    monitor.wait_until(lambda: monitor.state["t_ns"] > stamp + 2_000_000_000)
    assert monitor.state["frames_done"] == done, "no frame is exposed meanwhile"
    assert abs(monitor.state["temperature_c"] - 200.0) < 5


def assert_safe(cli: Any) -> None:
    """The simulated world's own word for it: heater at its safe level, beam blanked."""
    log = [json.loads(line) for line in (cli.folder / "world.log").read_text().splitlines()]
    assert [e["target_c"] for e in log if e["event"] == "heater"][-1] == 25.0
    assert [e["blanked"] for e in log if e["event"] == "beam"][-1]


def test_the_run_waits_while_the_disk_is_full(
    run: tuple[Any, Monitor], disk: Disk, cli: Any
) -> None:
    running, monitor = run
    disk.fill(free_bytes=20 << 20)
    wait_at_standby(monitor, "less than 32 MiB left")
    disk.make_room()
    monitor.wait_until(lambda: any("no longer waiting" in event for event in monitor.events))
    assert running.wait() == 0, running.text()
    report = cli.inspect(str(disk.folder / "run.nxs"))
    assert (report["status"], report["frames"], report["lost_frames"]) == ("complete", FRAMES, 0)
    assert [s["frames"] for s in report["series"]] == [9] * 4
    assert all(h["achieved_s"] == pytest.approx(0.5, abs=0.4) for h in report["holds"])


@pytest.mark.parametrize("free_bytes", [20 << 20, 0])
def test_a_run_whose_disk_stays_full_can_be_aborted(
    run: tuple[Any, Monitor], disk: Disk, cli: Any, free_bytes: int
) -> None:
    running, monitor = run
    disk.fill(free_bytes)
    wait_at_standby(monitor, "less than 32 MiB left")
    durable = monitor.durable
    running.interrupt()
    assert running.wait(150) != 0
    text = running.text()
    assert "Traceback" not in text
    if free_bytes == 0:
        assert "the file was not closed" in text
        assert "less than 2 MiB left" in text
        disk.make_room()
    found = recover(disk.folder / "run.nxs")
    assert found.repaired == (free_bytes == 0)
    assert found.status == ("interrupted" if free_bytes == 0 else "aborted")
    assert found.report["frames"] >= durable >= 5
    assert not found.lost
    assert_safe(cli)


def test_a_disk_that_becomes_read_only_is_waited_for_and_the_run_can_be_ended(
    cli: Any, tmp_path: Path
) -> None:
    """As ext4 does when it has found an error: it takes nothing until it is mounted anew."""
    image = tmp_path / "image"
    with image.open("xb") as file:
        file.truncate(128 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 can be made here: {error}")
    disk = Disk(tmp_path / "disk", "-o", "loop", str(image))
    try:
        file = str(disk.folder / "run.nxs")
        recipe = cli.recipe(steps=STEPS, analysis=[])
        running = cli.start("run", recipe, "--rig", cli.rig(), "-o", file, *LOG)
        monitor = Monitor(running.monitor)
        monitor.wait_until(lambda: monitor.durable >= 5)
        done = subprocess.run(
            ["mount", "-o", "remount,abort", str(disk.folder)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("this kernel cannot let a file system fail")
        # Which it is depends on whether there was something that the disk had not got yet.
        wait_at_standby(monitor, "Read-only file system", "make it writable|End the run")
        durable = monitor.durable
        running.interrupt()
        assert running.wait(150) != 0
        assert "the file was not closed" in running.text()
        assert_safe(cli)
        monitor.close()
        path = disk.folder / "run.nxs"
        with pytest.raises(BadInput, match="needs a repair that cannot be written"):
            recover(path)
        copy = Path(shutil.copy(path, tmp_path))
    finally:
        disk.close()
    found = recover(copy)
    assert found.report["frames"] >= durable >= 5
    assert not found.lost
