"""Files of killed runs become readable, and no acknowledged frame is missing."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 # registers the filters
import numpy as np
import pytest
from examine_apart import examine_apart
from recorder_link import T0, TILTS, Daemon, S, a_manifest, nexus_errors, picture

from pyrotome.daemon.recording.examination import KILLED
from pyrotome.daemon.recording.recovery import Recovered, recover
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.manifest import Interruption, RunManifest, StackPlan
from pyrotome.protocols.runfile import layout
from pyrotome.protocols.runfile.summary import inspect_file
from pyrotome.protocols.storage import superblock
from pyrotome.protocols.storage.redo_log import redo_path
from pyrotome.protocols.storage.transaction import edited
from pyrotome.protocols.storage.writer_lock import WriterLock, is_written

FRAMES = 400
# Kills of each kind; `PYROTOME_KILLS=50` for a longer look.
KILLS = int(os.environ.get("PYROTOME_KILLS", "2"))
GAP = Interruption(from_ns=T0 + 900 * S, until_ns=T0 + 1000 * S, hot_s=1.5, reason="killed")


def many_frames() -> RunManifest:
    tilts = (0.0,) * FRAMES
    stacks = (StackPlan(name="series_001", kind="series", frames=FRAMES, tilt_deg=tilts),)
    return a_manifest(stacks=stacks)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    running: list[Daemon] = []

    def start(manifest: RunManifest | None = None, **options: Any) -> Daemon:
        path = tmp_path / "run.nxs"
        running.append(Daemon(path, manifest or a_manifest(), **options))
        return running[-1]

    yield start
    for daemon in running:
        daemon.close()


def kill(daemon: Daemon) -> int:
    """Kill the recorder; the frames that it had acknowledged by then."""
    daemon.child.kill()
    daemon.child.wait(10)
    time.sleep(0.05)
    daemon.pump()
    return max([body["durable"] for body in daemon.bodies("status")], default=0)


def check(path: Path, durable: int) -> Recovered:
    """Recover a file and compare it with what was sent."""
    found = recover(path)
    again = path.read_bytes()
    assert found.manifest is not None
    assert found.manifest.run == "run-1"
    assert not found.lost
    assert not recover(path).repaired
    assert path.read_bytes() == again
    there = np.flatnonzero(found.image_keys["series_001"] == layout.RECORDED)
    assert len(there) >= durable
    assert set(range(durable)) <= set(there.tolist()), "frames were sent in this order"
    with h5py.File(path, "r") as file:
        assert np.array_equal(
            file[layout.image_key_path("series_001")][...], found.image_keys["series_001"]
        )
        for index in there.tolist():
            stored = file[layout.frames_path("series_001")][index]
            assert np.array_equal(stored, picture("series_001", index)), index
        if there.size:
            times = file[layout.column_path("series_001", "t_ns")][...][there]
            assert np.isfinite(times).all()
            assert found.last_ns >= T0 + int(times.max() * 1e9)
    assert inspect_file(path) == found.report
    return found


# --- killed at any moment -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_while_the_file_is_created(begin: Callable[..., Daemon], seed: int) -> None:
    daemon = begin(many_frames(), wait=False)
    path = daemon.path
    deadline = time.monotonic() + 60
    while not (path.exists() or list(path.parent.glob(".run.nxs.*.new"))):
        assert time.monotonic() < deadline
    time.sleep(np.random.default_rng(seed).uniform(0, 0.01))
    kill(daemon)
    if path.exists():
        assert check(path, 0).status == "interrupted"
    else:
        with pytest.raises(BadInput, match="while the file was being created"):
            recover(path)
        with pytest.raises(BadInput, match=r"no such file$"):
            recover(path)
        second = begin(many_frames())
        second.start()
        second.end()
    assert {p.name for p in path.parent.iterdir()} == {path.name}


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_full_rate(begin: Callable[..., Daemon], seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    daemon = begin(many_frames())
    daemon.start()
    lasts_s = random.uniform(0.05, 1.6)
    end_s = time.monotonic() + lasts_s
    index = 0
    while time.monotonic() < end_s:
        if index < FRAMES:
            daemon.frame("series_001", index)
            index += 1
        daemon.telemetry(index, temperature_c=200.0, power_mw=1.0)
        daemon.pump()
        time.sleep(lasts_s / FRAMES / 2)
    durable = kill(daemon)
    found = check(daemon.path, durable)
    assert found.status == "interrupted"
    with h5py.File(daemon.path, "r") as file:
        assert file[layout.REASON][()].decode() == KILLED
    # The same file goes on: what is missing can be recorded, what is there cannot.
    there = found.image_keys["series_001"] == layout.RECORDED
    resumed = begin(many_frames(), resumed=GAP)
    resumed.start()
    missing = np.flatnonzero(~there)[:3].tolist()
    for place in missing:
        resumed.frame("series_001", place)
    if there.any():
        resumed.frame("series_001", int(np.flatnonzero(there)[0]))
        resumed.wait_for_event("already recorded")
    resumed.end("aborted")
    keys = check(daemon.path, durable).image_keys["series_001"]
    assert (keys == layout.RECORDED).sum() == there.sum() + len(missing)


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_while_the_file_is_closed(begin: Callable[..., Daemon], seed: int) -> None:
    daemon = begin(many_frames())
    daemon.start()
    for index in range(20):
        daemon.frame("series_001", index)
    daemon.wait_until(lambda: any(b["durable"] == 20 for b in daemon.bodies("status")))
    daemon.send("end", {"status": "complete", "ended_ns": T0 + 3600 * S})
    time.sleep(np.random.default_rng(200 + seed).uniform(0, 0.06))
    durable = kill(daemon)
    assert durable == 20
    assert check(daemon.path, durable).status in ("interrupted", "complete")
    assert {p.name for p in daemon.path.parent.iterdir()} == {daemon.path.name}


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_while_the_file_is_reopened(begin: Callable[..., Daemon], seed: int) -> None:
    daemon = begin(many_frames())
    daemon.start()
    for index in range(20):
        daemon.frame("series_001", index)
    daemon.wait_until(lambda: any(b["durable"] == 20 for b in daemon.bodies("status")))
    kill(daemon)
    check(daemon.path, 20)
    closed = daemon.path.read_bytes()
    resumed = begin(many_frames(), resumed=GAP, wait=False)
    deadline = time.monotonic() + 60
    while not redo_path(daemon.path).exists() and daemon.path.read_bytes() == closed:
        assert time.monotonic() < deadline
    time.sleep(np.random.default_rng(300 + seed).uniform(0, 0.03))
    kill(resumed)
    found = check(daemon.path, 20)
    assert found.status == "interrupted"
    assert len(found.report["interruptions"]) in (0, 1)


# --- going on -------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_in_its_file(begin: Callable[..., Daemon]) -> None:
    first = begin()
    first.start()
    for index in range(3):
        first.frame("series_001", index, **({"lost": True} if index == 1 else {}))
        first.telemetry(index, temperature_c=200.0 + index)
    up = {"index": 1, "commanded_up_ns": T0 + 7 * S, "crossed_up_ns": T0 + 8 * S}
    first.send("hold", {"t_ns": T0 + 9 * S, **up})
    first.send("event", {"t_ns": T0 + 9 * S, "level": "info", "message": "hold 1 began"})
    first.wait_until(
        lambda: any(b["durable"] == 2 and b["lost"] == 1 for b in first.bodies("status"))
    )
    assert is_written(first.path)
    with pytest.raises(BadInput, match="being written by a run"):
        recover(first.path)
    kill(first)
    assert not is_written(first.path)
    unrecovered = begin(resumed=GAP)
    assert "pyrotome recover" in unrecovered.ready["error"]
    assert unrecovered.child.wait(10) == 2
    found = recover(first.path)
    assert found.last_ns == T0 + 9 * S
    assert found.image_keys["series_001"].tolist() == [0, 3, 0, 3, 3]
    assert found.report["lost_frames"] == 1
    assert nexus_errors(first.path, "/entry")[0] == 0

    other = begin(a_manifest(run="another"), resumed=GAP)
    assert "holds another run: run differs" in other.ready["error"]
    assert other.child.wait(10) == 2

    second = begin(resumed=GAP)
    second.start()
    for index in (1, 3, 4):
        second.frame("series_001", index)
    second.telemetry(120_000, temperature_c=300.0)
    again = {"index": 1, "commanded_up_ns": T0 + 1010 * S, "crossed_up_ns": T0 + 1011 * S,
             "commanded_down_ns": T0 + 1020 * S, "crossed_down_ns": T0 + 1021 * S}  # fmt: skip
    second.send("hold", {"t_ns": T0 + 1021 * S, **again})
    second.send("event", {"t_ns": T0 + 1021 * S, "level": "info", "message": "hold 1 ended"})
    for index in range(5):
        second.frame("series_002", index)
    volume = np.arange(6 * 8 * 8, dtype="<f4").reshape(6, 8, 8)
    header = {"name": "volume", "series": "series_001", "shape": [6, 8, 8], "dtype": "float32"}
    second.send("result/volume", header | {"t_ns": T0 + 1200 * S}, volume)
    second.wait_until(
        lambda: any(b["durable"] == 10 and b["lost"] == 0 for b in second.bodies("status"))
    )
    assert second.bodies("status")[-1]["dealt"] == 8
    done = second.end()
    assert (done["frames"], done["lost"]) == (10, 0)

    report = inspect_file(first.path)
    assert (report["status"], report["frames"], report["lost_frames"]) == ("complete", 10, 0)
    assert report["interruptions"] == [
        {"from_ns": GAP.from_ns, "until_ns": GAP.until_ns, "hot_s": 1.5, "reason": "killed"}
    ]
    with h5py.File(first.path, "r") as file:
        for series in ("series_001", "series_002"):
            for index in range(5):
                stored = file[layout.frames_path(series)][index]
                assert np.array_equal(stored, picture(series, index))
        log = file[layout.telemetry_path("heater", "temperature_c")]
        assert log["value"][...].tolist() == [200.0, 201.0, 202.0, 300.0]
        holds = {name: int(file[f"{layout.HOLDS}/{name}"][0]) for name in layout.HOLD_TIMES}
        assert holds == {
            "commanded_up_ns": T0 + 7 * S, "crossed_up_ns": T0 + 8 * S,
            "commanded_down_ns": T0 + 1020 * S, "crossed_down_ns": T0 + 1021 * S,
        }  # fmt: skip
        assert file[layout.REASON][()] == b""
        assert file["series_001/process_002/volume/data"][5, 7, 7] == volume[5, 7, 7]
        assert file["series_001/process_002/date"][()]
        assert "date" not in file["series_002/process_002"]
        messages = [text.decode() for text in file[f"{layout.EVENTS}/message"][...]]
        assert messages[:2] == ["hold 1 began", "hold 1 ended"]
    for entry in ("/entry", "/series_001", "/series_002"):
        errors, answer = nexus_errors(first.path, entry)
        assert errors == 0, answer
    over = begin(resumed=GAP)
    assert "complete run" in over.ready["error"]
    assert over.child.wait(10) == 2


def test_a_run_interrupted_twice_has_two_interruptions(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    file = RunFile(path, a_manifest())
    file.close("interrupted", None, None, "first")
    for count in (1, 2):
        gap = GAP.model_copy(update={"reason": f"number {count}", "hot_s": 0.5 * count})
        file = RunFile(path, a_manifest(), gap)
        with pytest.raises(OSError, match="being written"):
            RunFile(path, a_manifest(), gap)
        file.close("interrupted", None, None, "again")
    with h5py.File(path, "r") as opened:
        table = opened[layout.INTERRUPTIONS]
        assert [text.decode() for text in table["reason"][...]] == ["number 1", "number 2"]
        assert table["hot_s"][...].tolist() == [0.5, 1.0]
        assert table.attrs["NX_class"] == "NXcollection"
    with pytest.raises(FileNotFoundError):
        RunFile(tmp_path / "other.nxs", a_manifest(), GAP)


# --- files that are not to be touched -------------------------------------------------------------


def a_run(path: Path, frames: int = 5) -> Path:
    """The closed file of a small run."""
    file = RunFile(path, a_manifest())
    for index in range(frames):
        header = {"series": "series_001", "index": index, "t_ns": T0 + index * S}
        file.write_frame(header, picture("series_001", index))
        file.add_telemetry("heater", T0 + index * S, {"temperature_c": 200.0})
    file.close("complete", T0 + 100 * S, 5.0, "")
    return path


def test_a_healthy_file_is_not_touched(tmp_path: Path) -> None:
    path = a_run(tmp_path / "run.nxs")
    before = path.read_bytes(), path.stat().st_mtime_ns
    found = recover(path)
    assert (found.repaired, found.done, found.lost) == (False, (), ())
    assert (found.status, found.report["frames"]) == ("complete", 5)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    with h5py.File(path, "r"):
        assert not recover(path).repaired, "somebody reads it, which is no obstacle"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    file = RunFile(path, a_manifest())
    before = path.read_bytes()
    with pytest.raises(BadInput, match="being written by a run"):
        recover(path)
    assert path.read_bytes() == before
    file.close("aborted", None, None, "")
    lock = WriterLock(path)
    with pytest.raises(BadInput, match="being written by a run"):
        recover(path)
    lock.close()
    assert recover(path).status == "aborted"


def left_open(path: Path, flags: int) -> None:
    raw = bytearray(path.read_bytes())
    block = superblock.parse(bytes(raw))
    marked = superblock.Superblock(3, flags, 0, block.extension, block.end, block.root)
    raw[: superblock.SIZE] = marked.pack()
    path.write_bytes(raw)


def test_commands_report_a_file_that_was_left_open(tmp_path: Path, cli: Any) -> None:
    path = a_run(cli.folder / "run.nxs")
    left_open(path, superblock.OPEN_FOR_WRITING)
    told = cli("inspect", "run.nxs")
    assert told.returncode == 2
    assert "was left open by a killed program; run `pyrotome recover run.nxs`" in told.stderr
    left_open(path, superblock.OPEN_FOR_WRITING | superblock.OPEN_FOR_SWMR)
    told = cli("inspect", "run.nxs")
    assert told.returncode == 0
    assert "pyrotome recover run.nxs" in told.stdout
    refused = cli("process", "run.nxs")
    assert refused.returncode == 2
    assert "pyrotome recover" in refused.stderr
    with pytest.raises(OSError, match="left open"), edited(path):
        pass
    done = cli("recover", "run.nxs", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report.pop("recovered") == {
        "repaired": True, "done": ["closed it, which its program had not done"], "lost": [],
    }  # fmt: skip
    assert report == cli.inspect("run.nxs")
    again = cli("recover", "run.nxs")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert "5 frames" in again.stdout


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"title: no run\n" * 50), "not an HDF5 file"),
        (lambda path: path.write_bytes(superblock.SIGNATURE + bytes(500)), "damaged beyond help"),
        (lambda path: h5py.File(path, "w").close(), "version 0"),
        (lambda path: h5py.File(path, "w", libver=("v110", "v110")).close(), "not a run file"),
    ],
)
def test_files_that_are_not_run_files_are_refused(
    tmp_path: Path, make: Callable[[Path], Any], complaint: str
) -> None:
    path = tmp_path / "x.nxs"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(BadInput, match=complaint):
        recover(path)
    assert before is None or path.read_bytes() == before


def test_a_file_that_hangs_or_crashes_hdf5_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_run(tmp_path / "run.nxs")
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"did not finish reading it within 0 s"):
        recover(path, limit_s=0.001)
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(BadInput, match=r"HDF5 crashed on it \(SIGSEGV\)"):
        recover(path)
    assert path.read_bytes() == before


# --- damage ---------------------------------------------------------------------------------------


def test_a_damaged_frame_is_reported(tmp_path: Path) -> None:
    path = a_run(tmp_path / "run.nxs")
    with h5py.File(path, "r") as file:
        where = file[layout.frames_path("series_001")].id.get_chunk_info(2)
    raw = bytearray(path.read_bytes())
    raw[where.byte_offset + 12 : where.byte_offset + 16] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)
    found = recover(path)
    assert found.lost == ("frame 2 of series_001 cannot be read",)
    assert not found.repaired
    assert path.read_bytes() == raw
    left_open(path, 5)
    found = recover(path)
    assert found.lost == ("frame 2 of series_001 cannot be read",)
    assert found.image_keys["series_001"].tolist() == [0, 0, 3, 0, 0]
    assert found.report["series"][0]["lost_frames"] == 1
    assert recover(path).lost == ()


def test_a_truncated_file_keeps_the_frames_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    running = RunFile(path, many_frames())
    created = path.stat().st_size
    for index in range(60):
        header = {"series": "series_001", "index": index, "t_ns": T0 + index * S}
        running.write_frame(header, picture("series_001", index))
    running.flush()
    whole = path.read_bytes()  # as it would be after a kill
    running.close("complete", None, None, "")
    with h5py.File(path, "r") as file:
        data = file[layout.frames_path("series_001")]
        chunks = [data.id.get_chunk_info(index) for index in range(60)]
    # The first ones fill gaps that creation has left.
    for cut in (chunks[index].byte_offset for index in (30, 45)):
        assert created < cut < len(whole)
        path.write_bytes(whole[:cut])
        found = recover(path)
        kept = [k for k, chunk in enumerate(chunks) if chunk.byte_offset + chunk.size <= cut]
        assert 0 < len(kept) < 60
        there = np.flatnonzero(found.image_keys["series_001"] == layout.RECORDED)
        assert there.tolist() == kept
        assert any(text.endswith("of series_001 cannot be read") for text in found.lost)
        with h5py.File(path, "r") as file:
            for index in kept:
                stored = file[layout.frames_path("series_001")][index]
                assert np.array_equal(stored, picture("series_001", index))


def test_a_file_damaged_anywhere_is_read_or_reported(tmp_path: Path) -> None:
    """Truncated and bit-flipped files: an answer each time, and the file as it was."""
    path = a_run(tmp_path / "run.nxs")
    whole = path.read_bytes()
    random = np.random.default_rng(5)
    readable = 0
    for _ in range(40):
        raw = bytearray(whole)
        if random.random() < 0.3:
            del raw[int(random.integers(0, len(raw))) :]
        for _ in range(int(random.integers(0, 6))):
            if raw:
                raw[int(random.integers(0, len(raw)))] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(raw)
        found = examine_apart(path)
        assert path.read_bytes() == raw
        if found.problem is None:
            readable += 1
            assert found.report["title"]
            assert len(found.image_keys["series_001"]) == len(TILTS)
        else:
            assert "crashed" not in found.problem, found.problem
    assert 0 < readable < 40
