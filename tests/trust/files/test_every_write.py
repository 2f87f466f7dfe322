"""A run file that is cut short after any write, or within it, keeps all durable frames."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 # registers the filters
import numpy as np
import pytest
from recorder_link import T0, S, a_manifest, picture, scout, scouted

from pyrotome.daemon.recording.examination import examine
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.messages.manifest import StackPlan
from pyrotome.protocols.runfile import layout
from pyrotome.protocols.storage.chunk_index import is_sound
from pyrotome.protocols.storage.overlay import PAGE_BYTES
from pyrotome.protocols.storage.redo_log import replay_redo
from pyrotome.protocols.storage.transaction import locked

SAMPLES = 20  # of the heater with each frame


@dataclass(frozen=True)
class Write:
    """One write or truncation, and where its note in the log ends."""

    offset: int
    data: bytes | None
    logged_bytes: int


def record(path: Path, frames: int, per_flush: int, points: Path) -> None:
    """Record a run; notes how long the log was when so many frames were acknowledged."""
    log = Path(os.environ["WRITE_LOG"])
    stack = StackPlan(name="series_001", kind="series", frames=frames, tilt_deg=(0.0,) * frames)
    file = RunFile(path, a_manifest(stacks=(stack,), tracking=scouted("series_001")))
    known = [(log.stat().st_size, 0)]
    for index in range(frames):
        t_ns = T0 + index * S
        header = {"series": "series_001", "index": index, "t_ns": t_ns, "temperature_c": 200.0}
        if index % 2:
            told, seen = scout("series_001", index // 2)
            file.write_scout(told, seen)
            header["scout_t_ns"] = told["t_ns"]
        file.write_frame(header, picture("series_001", index))
        for sample in range(SAMPLES):
            values = {"temperature_c": 200.0 + sample, "power_mw": 1.0}
            file.add_telemetry("heater", t_ns + sample * S // SAMPLES, values)
        file.add_event({"t_ns": t_ns, "level": "info", "message": f"frame {index}"})
        if (index + 1) % per_flush == 0:
            file.flush()
            known.append((log.stat().st_size, file.frames))
    file.flush()
    known.append((log.stat().st_size, file.frames))
    points.write_text(json.dumps(known))
    os._exit(0)  # what closing does is looked at elsewhere


def run_logged(folder: Path, frames: int, per_flush: int) -> tuple[list[Write], list[list[int]]]:
    """Record a run in a process whose writes are logged."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler to log what HDF5 writes")
    library = folder / "write_log.so"
    source = Path(__file__).with_name("write_log.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    log, points, path = folder / "log", folder / "points.json", folder / "run.nxs"
    environment = {
        "LD_PRELOAD": str(library), "WRITE_LOG": str(log), "WRITE_FILE": path.name,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "support"), *sys.path]),
    }  # fmt: skip
    script = (
        "import importlib.util as u, sys, pathlib as p\n"
        f"s = u.spec_from_file_location('every_write', {str(Path(__file__))!r})\n"
        "m = u.module_from_spec(s); sys.modules['every_write'] = m; s.loader.exec_module(m)\n"
        f"m.record(p.Path({str(path)!r}), {frames}, {per_flush}, p.Path({str(points)!r}))\n"
    )
    subprocess.run([sys.executable, "-c", script], env=os.environ | environment, check=True)
    raw, writes, at = log.read_bytes(), list[Write](), 0
    while at < len(raw):
        kind, offset, count = struct.unpack_from("<qqq", raw, at)
        at += 24
        data = raw[at : at + count] if kind == 0 else None
        at += count
        writes.append(Write(offset, data, at))
    return writes, json.loads(points.read_text())


def put(image: bytearray, offset: int, data: bytes) -> None:
    image.extend(bytes(max(0, offset + len(data) - len(image))))
    image[offset : offset + len(data)] = data


def cut_short(
    writes: list[Write], points: list[list[int]], only_metadata: bool
) -> Iterator[tuple[bytearray, int, str]]:
    """Files as they are after each write and within it, the frames acknowledged by then, where.

    With `only_metadata` those cut short within a block that has a checksum.
    """
    image, durable = bytearray(), 0
    for number, write in enumerate(writes):
        born = write.logged_bytes > points[0][0]
        if write.data is None:
            del image[write.offset :]
            image.extend(bytes(write.offset - len(image)))
        else:
            first = write.offset // PAGE_BYTES + 1
            for border in range(first, -(-(write.offset + len(write.data)) // PAGE_BYTES)):
                if born and not (only_metadata and not is_sound(write.data)):
                    part = write.data[: border * PAGE_BYTES - write.offset]
                    torn = bytearray(image)
                    put(torn, write.offset, part)
                    yield torn, durable, f"write {number}, torn at {border * PAGE_BYTES}"
            put(image, write.offset, write.data)
        durable = max(
            count for size, count in points if size <= max(write.logged_bytes, points[0][0])
        )
        if born and not only_metadata:
            yield bytearray(image), durable, f"after write {number}"


def check(path: Path, image: bytearray, durable: int) -> None:
    """Repair a file and look whether everything acknowledged is in it."""
    path.write_bytes(image)
    found = examine(path, repair=True)
    assert found.problem is None
    assert not found.lost
    with locked(path) as fd:
        replay_redo(path, fd)
    with h5py.File(path, "r") as file:
        assert file[layout.STATUS][()] == b"interrupted"
        there = np.flatnonzero(file[layout.image_key_path("series_001")][...] == layout.RECORDED)
        assert set(range(durable)) <= set(there.tolist())
        frames = file[layout.frames_path("series_001")]
        for index in there:
            assert np.array_equal(frames[index], picture("series_001", index))
        times = file[layout.column_path("series_001", "t_ns")][...]
        assert np.isfinite(times[there]).all()
        check_scouts(file, durable)
        if durable:
            log = file[layout.telemetry_path("heater", "temperature_c")]
            rows = len(log["time"])
            assert rows == len(log["value"]) >= durable * SAMPLES
            assert np.array_equal(log["value"][...], 200.0 + np.arange(rows) % SAMPLES)
            assert len(file[f"{layout.EVENTS}/message"]) >= durable


def check_scouts(file: h5py.File, durable: int) -> None:
    """Every scout that the table names is there, those before acknowledged frames among them."""
    if "scouts_001" not in file:
        assert durable < 2
        return
    group = file["scouts_001"]
    rows = {name: column[...] for name, column in group["scouts"].items()}
    assert {len(column) for column in rows.values()} == {len(rows["time"])}
    assert len(rows["time"]) >= durable // 2
    for row, (grid, place) in enumerate(zip(rows["grid"], rows["picture"], strict=True)):
        told, seen = scout("series_001", row)
        assert np.array_equal(group[grid.decode()]["data"][place], seen)
        assert rows["tilt"][row] == told["tilt_deg"]
    named = file["series_001/frames/scout"][...]
    assert named.max() < len(rows["time"])
    assert named[1:durable:2].tolist() == list(range(durable // 2))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: each repair waits for the disk twice."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.mark.parametrize(("frames", "per_flush", "step"), [(24, 3, 12), (1100, 100, 3)])
def test_a_file_cut_short_anywhere_keeps_its_durable_frames(
    folder: Path, frames: int, per_flush: int, step: int
) -> None:
    """Places all over a short run; in a long one the table of frames, which takes several pages."""
    writes, points = run_logged(folder, frames, per_flush)
    if os.environ.get("PYROTOME_EVERY_WRITE"):
        step = 1
    tried = 0
    for number, place in enumerate(cut_short(writes, points, only_metadata=frames > 1000)):
        if number % step:
            continue
        image, durable, where = place
        tried += 1
        try:
            check(folder / "cut.nxs", image, durable)
        except AssertionError as error:
            raise AssertionError(f"cut short {where}, {durable} frames acknowledged") from error
    assert tried > 8
    assert points[-1][1] == frames
    print(f"{tried} places, all acknowledged frames there")
