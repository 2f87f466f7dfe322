"""Start programs that are not ours and speak the wires of our drivers, each in a folder."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pyrotome.protocols.wires import merlin

BIN = Path(sys.executable).parent
STARTUP_S = 60.0

# Card A8's cryostat, with the power to hold room temperature and a thermal mass that is quick.
FRAPPY_CONFIG = """\
Node('insitu.test', 'a simulated sample environment', interface='tcp://{port}')
Mod('T', 'frappy_demo.cryo.Cryostat', 'sample temperature', jitter=0.02,
    T_start=300.0, target=300.0, looptime=0.1, pollinterval=0.1, ramp=1000, mode='ramp',
    maxpower=2000.0, heater=3.0, p=100, i=10, d=0, tolerance=0.5, window=1, timeout=60)
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def frappy_server(folder: Path) -> Iterator[str]:
    """frappy-server with its simulated cryostat as module T; yields its endpoint."""
    program = _program("frappy-server")
    for name in ("cfg", "log", "pid"):
        (folder / name).mkdir(parents=True)
    port = free_port()
    (folder / "cfg" / "insitu_cfg.py").write_text(FRAPPY_CONFIG.format(port=port))
    words = {"CONFDIR": "cfg", "LOGDIR": "log", "PIDDIR": "pid"}
    environment = {f"FRAPPY_{key}": str(folder / name) for key, name in words.items()}
    with _running([program, "-p", str(port), "insitu"], folder, environment, [port]):
        yield f"tcp://127.0.0.1:{port}"


def instamatic_settings(folder: Path, port: int, protocol: str = "json") -> dict[str, str]:
    """Write what instamatic's first start would; returns the environment that finds it.

    The first start itself cannot be used: it ends by opening a window of Windows' file manager.
    """
    found = importlib.util.find_spec("instamatic")
    if found is None or not found.submodule_search_locations:
        pytest.skip("instamatic is not installed (extra 'interop')")
    source = Path(found.submodule_search_locations[0]) / "config"
    base = folder / "AppData" / "instamatic"
    (base / "logs").mkdir(parents=True)
    for name in ("microscope", "calibration", "camera"):
        shutil.copytree(source / name, base / "config" / name)
    for name in ("scripts", "alignments"):
        shutil.copytree(source / name, base / name)
    shutil.copy(source / "defaults.yaml", base / "config")
    settings = (source / "settings.yaml").read_text()
    for before, after in (
        ("tem_communication_protocol: 'pickle'", f"tem_communication_protocol: '{protocol}'"),
        ("tem_server_port: 8088", f"tem_server_port: {port}"),
        ("tem_server_host: 'localhost'", "tem_server_host: '127.0.0.1'"),
    ):
        assert settings.count(before) == 1
        settings = settings.replace(before, after)
    (base / "config" / "settings.yaml").write_text(settings)
    return {"AppData": str(folder / "AppData"), "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def instamatic_server(folder: Path, protocol: str = "json") -> Iterator[str]:
    """instamatic.temserver with its simulated microscope (20 deg/s); yields its endpoint."""
    program = _program("instamatic.temserver")
    port = free_port()
    environment = instamatic_settings(folder, port, protocol)
    with _running([program], folder, environment, [port]):
        yield f"tcp://127.0.0.1:{port}"


@contextlib.contextmanager
def merlin_server(folder: Path, truth: np.ndarray) -> Iterator[tuple[str, str]]:
    """LiberTEM-live's Merlin simulator, which sends a recording; yields control and data endpoints.

    The whole recording goes out at the first trigger of an acquisition.
    """
    program = _program("libertem-live-mib-sim")
    compile_merlin_simulator(Path(program))
    frames, rows, columns = truth.shape
    folder.mkdir(parents=True, exist_ok=True)
    header = merlin.AcquisitionHeader(frames, frames, 12, {"ScanX": f"{frames}", "ScanY": "1"})
    (folder / "t.hdr").write_bytes(merlin.encode_acquisition_header(header))
    with (folder / "t.mib").open("wb") as mib:
        for number, data in enumerate(truth, 1):
            head = merlin.FrameHeader(number, columns, rows)
            mib.write(merlin.encode_frame_header(head) + merlin.pixels_to_wire(data, "U16"))
    ports = [free_port() for _ in range(3)]
    options = zip(("--control-port", "--data-port", "--trigger-port"), map(str, ports), strict=True)
    command = [program, "--host", "127.0.0.1", "--wait-trigger", *sum(options, ()), "t.hdr"]
    with _running(command, folder, {}, ports):
        yield f"tcp://127.0.0.1:{ports[0]}", f"tcp://127.0.0.1:{ports[1]}"


@functools.cache
def compile_merlin_simulator(program: Path) -> None:
    """Let LiberTEM-live's simulator compile what it needs before the tests, where it has not yet.

    That takes longer than a driver waits for a frame; the compiled code is kept on the disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        for depth, chips in ((12, 1), (6, 4), (24, 1)):
            recording = write_recording(Path(folder), depth, chips)
            ports = [free_port() for _ in range(3)]
            names = ("--control-port", "--data-port", "--trigger-port")
            options = sum(zip(names, map(str, ports), strict=True), ())
            command = [str(program), "--host", "127.0.0.1", "--wait-trigger", *options]
            with (
                _running([*command, recording.name], Path(folder), {}, ports),
                socket.create_connection(("127.0.0.1", ports[0]), 30) as control,
                socket.create_connection(("127.0.0.1", ports[1]), 30) as data,
            ):
                for name in ("STARTACQUISITION", "SOFTTRIGGER"):
                    control.sendall(merlin.encode_command(merlin.Command("CMD", name)))
                    control.recv(4096)
                    time.sleep(0.5)
                data.settimeout(120)
                left = recording.with_suffix(".mib").stat().st_size
                while left > 0 and (received := data.recv(1 << 20)):
                    left -= len(received)


def write_recording(folder: Path, depth: int, chips: int) -> Path:
    """Write two dark frames as a Merlin would have; returns the path of the header."""
    pixel_type = merlin.PIXEL_TYPES[depth]
    header = merlin.AcquisitionHeader(2, 2, depth, {"ScanX": "2", "ScanY": "1"})
    (folder / "dark.hdr").write_bytes(merlin.encode_acquisition_header(header))
    dark = np.zeros((256, 256), {"U08": "u1", "U16": "<u2", "U32": "<u4"}[pixel_type])
    layout = "2x2" if chips == 4 else "1x1"
    with (folder / "dark.mib").open("wb") as mib:
        for number in (1, 2):
            size = merlin.header_bytes(chips)
            head = merlin.FrameHeader(number, 256, 256, pixel_type, depth, size, chips, layout)
            mib.write(merlin.encode_frame_header(head) + merlin.pixels_to_wire(dark, pixel_type))
    return folder / "dark.hdr"


def _program(name: str) -> str:
    found = shutil.which(name, path=str(BIN))
    if found is None:
        pytest.skip(f"{name} is not installed (extra 'interop')")
    return found


@contextlib.contextmanager
def _running(
    command: list[str], folder: Path, environment: dict[str, str], ports: list[int]
) -> Iterator[None]:
    """Run a program in a folder until its ports listen, and stop it afterwards."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("w") as written:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
        try:
            end = time.monotonic() + STARTUP_S
            while not all(_listens(port) for port in ports):
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"{command[0]} did not start: {log.read_text()[-2000:]}")
                time.sleep(0.05)
            yield
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    """Whether a port is listened on, by the kernel's table: connecting would disturb it."""
    try:
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
    return any(
        line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines
    )
