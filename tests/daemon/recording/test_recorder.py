"""The recorder process at the other end of a real link."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 # registers the filters
import numpy as np
import pytest
from recorder_link import (
    SHAPE,
    T0,
    TILTS,
    Daemon,
    S,
    a_manifest,
    nexus_errors,
    picture,
    scout,
    scouted,
)

from pyrotome.daemon.recording.recorder import CREDIT_BYTES, credit_for
from pyrotome.protocols.core.bitshuffle import Bitshuffle
from pyrotome.protocols.messages import credit_link as link
from pyrotome.protocols.messages.manifest import RunManifest
from pyrotome.protocols.runfile import layout
from pyrotome.protocols.runfile.summary import inspect_file

Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Daemon] = []

    def begin(path: Path | None = None, **changes: Any) -> Daemon:
        running.append(Daemon(path or tmp_path / "run.nxs", a_manifest(**changes)))
        return running[-1]

    yield begin
    for daemon in running:
        daemon.close()


def a_whole_run(daemon: Daemon) -> dict[str, Any]:
    """Everything that can come in a run; one frame of series_001 is lost."""
    daemon.start()
    daemon.send("state", {"type": "state", "state": "running", "t_ns": T0 + 1})
    clock = {"monotonic_ns": 55, "utc_ns": T0 + 2, "uncertainty_ns": 900}
    daemon.send("clock", {"type": "clock", "t_ns": T0 + 2, **clock})
    for index in range(200):
        daemon.telemetry(index, temperature_c=200.0 + index, power_mw=None)
    for index in range(2):
        daemon.frame("reference_001", index)
    for series in ("series_001", "series_002"):
        for index in range(5):
            lost = series == "series_001" and index == 3
            daemon.frame(series, index, **({"lost": True} if lost else {}))
            denoised = np.full(SHAPE, index, "<f4")
            header = {"type": "result", "name": "denoised", "series": series, "index": index}
            stamp = {"t_ns": T0 + 100 * S, "shape": list(SHAPE), "dtype": "float32"}
            if not lost:
                daemon.send("result/denoised", header | stamp, denoised)
    daemon.frame("ramp_001", 0)
    hold = {"index": 1, "commanded_up_ns": T0 + 7, "crossed_up_ns": T0 + 8}
    daemon.send("hold", {"type": "hold", "t_ns": T0 + 9, **hold})
    event = {"t_ns": T0 + 9, "level": "info", "source": "engine", "message": "hold 1"}
    daemon.send("event", event | {"hold": hold})
    long = {"t_ns": T0 + 10, "level": "warning", "source": "supervisor", "message": "ä" * 5000}
    daemon.send("event", long)
    volume = np.arange(6 * 8 * 8, dtype="<f4").reshape(6, 8, 8)
    header = {"name": "volume", "series": "series_001", "shape": [6, 8, 8], "dtype": "float32"}
    daemon.send("result/volume", header | {"t_ns": T0 + 200 * S}, volume)
    daemon.send("result/slices", header | {"name": "slices", "record": False}, volume)
    return daemon.end()


def test_everything_that_comes_is_in_the_file(start: Start) -> None:
    daemon = start(value_offset=32768)
    done = a_whole_run(daemon)
    assert not daemon.bodies("event")
    assert done == {"frames": 12, "lost": 1, "bytes": daemon.path.stat().st_size}
    with h5py.File(daemon.path, "r") as file:
        assert file[layout.STATUS][()] == b"complete"
        assert file[layout.END_TIME][()] == b"2027-01-15T09:00:00.000Z"
        assert file[layout.DOSE_TOTAL][()] == 63.5
        assert file.attrs["default"] == "series_001"
        for series in ("reference_001", "series_001", "series_002", "ramp_001"):
            data = file[layout.frames_path(series)]
            for index in range(len(data)):
                if (series, index) != ("series_001", 3):
                    assert np.array_equal(data[index], picture(series, index)), (series, index)
        filters = file[layout.frames_path("series_001")].id.get_create_plist()
        assert filters.get_nfilters() == 1
        assert filters.get_filter(0)[0] == 32008
        assert file[layout.frames_path("series_001")].chunks == (1, *SHAPE)

        one = file["series_001"]
        assert one["instrument/detector/image_key"][...].tolist() == [0, 0, 0, 3, 0]
        assert one["sample/rotation_angle"][...] == pytest.approx(np.array(TILTS) + 0.01)
        assert one["frames/nominal_tilt"][...].tolist() == list(TILTS)
        assert one["sample/temperature"][...] == pytest.approx(200 + 0.1 * np.arange(5))
        assert one["frames/frame_number"][...].tolist() == [1, 2, 3, 4, 5]
        assert one["frames/dose"][...].tolist() == [5.77] * 5
        assert one["frames/time"][...] == pytest.approx(np.arange(3, 8))
        assert one["frames/time"].attrs["start_ns"] == T0
        assert one["instrument/detector/count_time"][...].tolist() == [0.5] * 5
        assert one["data/data"] == one["instrument/detector/data"]
        assert one["data/data_offset"][()] == -32768
        assert one["instrument/detector/encoding/value_offset"][()] == 32768
        assert one["data/x"][1] == pytest.approx(1.04)

        denoised = one["process_001/denoised/data"][...]
        assert denoised[:, 0, 0] == pytest.approx([0, 1, 2, np.nan, 4], nan_ok=True)
        assert one["process_001/parameters/variance"][()] == 137.0
        assert one["process_001/date"][()] == b"2027-01-15T08:01:40.000Z"
        assert one["process_002/volume/data"][5, 7, 7] == 6 * 8 * 8 - 1
        assert one["process_002/volume/z"][1] == pytest.approx(4.16)
        assert "date" not in file["series_002/process_002"], "no date without a result"

        heater = file[f"{layout.TELEMETRY}/heater"]
        assert heater["temperature_c/value"][...] == pytest.approx(200 + np.arange(200))
        assert heater["temperature_c/time"][...] == pytest.approx(np.arange(200) / 100)
        assert heater["temperature_c/time"] == heater["power_mw/time"]
        assert np.isnan(heater["power_mw/value"][...]).all()
        assert "tilt_deg" not in file[f"{layout.TELEMETRY}/stage"], "an empty log was left"

        events = file[layout.EVENTS]
        messages = [text.decode() for text in events["message"][...]]
        assert messages[:2] == ["state: running", "hold 1"]
        assert messages[2].endswith("ä…")
        assert len(messages[2].encode()) in {399, 400}
        assert json.loads(events["json"][1])["hold"]["commanded_up_ns"] == T0 + 7
        assert [t.decode() for t in events["source"][...]] == ["engine", "engine", "supervisor"]
        assert file[f"{layout.CLOCK}/uncertainty_ns"][...].tolist() == [900]
        assert file[f"{layout.HOLDS}/crossed_up_ns"][...].tolist() == [T0 + 8]
        assert file[f"{layout.HOLDS}/crossed_down_ns"][...].tolist() == [-1]
        assert file[f"{layout.DOSE}/value"][-1] == pytest.approx(13 * 5.77)
        assert file[f"{layout.RUN}/recipe/data"][()] == b"title: Sintering\n"
        assert RunManifest.model_validate_json(file[layout.MANIFEST][()]) == daemon.manifest


def test_nexus_and_hyperspy_agree_with_the_file(start: Start) -> None:
    from rsciio.nexus import file_reader

    daemon = start()
    a_whole_run(daemon)
    for entry in ("/entry", "/series_001", "/series_002"):
        errors, answer = nexus_errors(daemon.path, entry)
        assert errors == 0, answer
    signals = {s["metadata"]["General"]["title"]: s for s in file_reader(str(daemon.path))}
    stacks = [s for s in signals.values() if s["data"].shape == (5, *SHAPE)]
    assert any(np.array_equal(s["data"][0], picture("series_002", 0)) for s in stacks)
    angles = [a for s in stacks for a in s["axes"] if a["name"] == "rotation_angle"]
    assert angles


READER = """
import sys, h5py, hdf5plugin
with h5py.File(sys.argv[1], "r", swmr=True) as file:
    frames = file["/series_001/instrument/detector/data"]
    keys = file["/series_001/instrument/detector/image_key"]
    value = file["/entry/telemetry/heater/temperature_c/value"]
    status = file["/entry/run/status"]
    for line in sys.stdin:
        for item in (frames, keys, value, status):
            item.refresh()
        there = [i for i in range(len(keys)) if keys[i] == 0]
        sums = [int(frames[i].sum()) for i in there]
        print(len(value), sums, status[()].decode(), flush=True)
"""


def test_another_process_reads_while_it_grows(start: Start) -> None:
    daemon = start()
    daemon.start()
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(daemon.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None

    def seen() -> str:
        print(file=reader.stdin, flush=True)
        return reader.stdout.readline().strip()  # pyright: ignore[reportOptionalMemberAccess]

    def wait_to_see(expected: str) -> None:
        deadline = time.monotonic() + 60
        while (line := seen()) != expected:
            assert time.monotonic() < deadline, line

    wait_to_see("0 [] running")
    sums = [int(picture("series_001", index).sum()) for index in range(2)]
    daemon.frame("series_001", 0)
    for index in range(7):
        daemon.telemetry(index, temperature_c=200.0)
    wait_to_see(f"7 [{sums[0]}] running")
    report = inspect_file(daemon.path)
    assert (report["status"], report["frames"], report["events"]) == ("running", 1, 0)
    daemon.frame("series_001", 1)
    daemon.telemetry(8, temperature_c=200.0)
    wait_to_see(f"8 [{sums[0]}, {sums[1]}] running")
    # A reader that stays does not keep the recorder from closing the file.
    daemon.end("aborted", reason="the operator pressed Ctrl-C")
    reader.stdin.close()
    assert reader.wait(60) == 0
    reader.stdout.close()
    report = inspect_file(daemon.path)
    assert (report["status"], report["frames"]) == ("aborted", 2)


def test_an_existing_file_is_left_alone(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "precious.nxs"
    path.write_bytes(b"precious")
    daemon = start(path)
    assert "exists already" in daemon.ready["error"]
    assert daemon.child.wait(60) == 2
    assert path.read_bytes() == b"precious"


def test_a_folder_that_is_not_there(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    daemon = start(folder / "run.nxs")
    assert "run.nxs cannot be created: No such file or directory" in daemon.ready["error"]
    assert daemon.child.wait(60) == 2
    assert not folder.exists()


def test_credit_comes_back_for_every_frame(start: Start) -> None:
    daemon = start()
    assert daemon.start() == credit_for(SHAPE[0] * SHAPE[1] * 2) == 1000
    assert credit_for(2 << 20) == CREDIT_BYTES // (2 << 20)
    assert credit_for(1 << 30) == 4
    for index in range(5):
        daemon.frame("series_001", index, **({"lost": True} if index == 2 else {}))
    daemon.wait_for_credit(5)
    daemon.frame("series_001", 7)
    daemon.wait_for_credit(6)


def test_a_wrong_frame_is_named_and_the_run_goes_on(start: Start) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"series": "series_009"}, "no stack is called 'series_009'"),
        ({"series": ["x"]}, "no stack is called ['x']"),
        ({"index": 5}, "series_001 has the frames 0 to 4, not 5"),
        ({"index": -1}, "not -1"),
        ({"index": True}, "not True"),
        ({"index": None}, "not None"),
        ({"shape": [32, 24]}, "are (24, 32) uint16, not (32, 24)"),
        ({"shape": [24, 16]}, "payload of"),
        ({"dtype": "int16"}, "int16"),
        ({"dtype": "object"}, "'object'"),
    ]
    daemon = start()
    daemon.start()
    for count, (changes, complaint) in enumerate(wrong, 1):
        daemon.frame("series_001", 0, **changes)
        assert daemon.wait_for_event(complaint)["level"] == "error"
        daemon.wait_for_credit(count)
    daemon.frame("series_001", 0)
    assert daemon.end()["frames"] == 1


def test_other_wrong_messages(start: Start) -> None:
    daemon = start()
    daemon.start()
    huge = 10**400
    daemon.send_parts(b"frame/merlin")
    daemon.send_parts(b"\xff\xfe", b"{")
    daemon.send_parts(b"event", b"[1]")
    daemon.wait_for_event("topic or header unreadable")
    daemon.wait_for_event("not a JSON object")
    daemon.send("gossip", {})
    daemon.wait_for_event("'gossip'")
    daemon.send("telemetry/oven", {"t_ns": 1, "values": {"a": 1}})
    daemon.wait_for_event("telemetry 'oven'")
    values = {"temperature_c": huge, "colour": 3, "power_mw": "hot"}
    for _ in range(3):
        daemon.send("telemetry/heater", {"t_ns": huge, "values": values})
    daemon.wait_for_event("'heater/colour'")
    daemon.send("hold", {"index": 9})
    daemon.wait_for_event("holds 1 to 1")
    daemon.send("hold", {"index": [], "crossed_up_ns": huge})
    daemon.send("clock", {"monotonic_ns": huge})
    daemon.wait_for_event("a clock pair")
    daemon.send(
        "result/x", {"name": "x", "series": "series_001", "shape": [1], "dtype": "uint8"}, b"1"
    )
    daemon.wait_for_event("no result 'x'")
    header = {"name": "denoised", "series": "series_001", "shape": [2], "dtype": "uint8"}
    daemon.send("result/denoised", header | {"index": 0}, b"12")
    daemon.wait_for_event("has the shape (24, 32)")
    one = {"name": "denoised", "series": "series_001", "shape": list(SHAPE), "dtype": "uint16"}
    daemon.send("result/denoised", one | {"index": 99}, picture("a", 0))
    daemon.wait_for_event("has no frame 99")
    daemon.frame("series_001", 0, frame_number=huge, seq=huge, t_ns=huge, dose_e_per_nm2=huge)
    daemon.frame("series_001", 1)
    daemon.frame("series_001", 1)
    daemon.wait_for_event("frame 1 of series_001 is already recorded")
    unknown = [b for b in daemon.bodies("event") if "colour" in b["message"]]
    assert len(unknown) == 1, "told once, not at the rate of the telemetry"
    assert daemon.end("perfect", dose_e_per_nm2=huge, ended_ns=huge)["frames"] == 2
    daemon.wait_for_event("'perfect' is not a status")
    report = inspect_file(daemon.path)
    assert (report["status"], report["frames"]) == ("failed", 2)
    with h5py.File(daemon.path) as file:
        assert file[f"{layout.TELEMETRY}/heater/power_mw/value"].shape == (3,)
        assert file["/series_001/frames/frame_number"][...].tolist() == [-1, 2, -1, -1, -1]


def test_a_frame_that_the_detector_compressed_goes_into_the_file_as_it_is(start: Start) -> None:
    daemon = start()
    daemon.start()
    frame = picture("series_001", 0)
    raw = bytes(Bitshuffle().compress(frame))
    chunk = {"encoding": "bslz4", "shape": list(SHAPE), "dtype": "uint16", "tilt_deg": 1.5}
    header = {"series": "series_001", "index": 0, "t_ns": T0 + S} | chunk
    daemon.send("frame/dectris", header, raw)
    daemon.send("frame/dectris", header | {"index": 1}, raw[:-3])
    daemon.send("frame/dectris", header | {"index": 2, "encoding": "zip"}, raw)
    daemon.wait_for_credit(3)
    daemon.wait_for_event("its blocks need")
    daemon.wait_for_event("encoding 'zip' is not 'bslz4'")
    daemon.end()
    with h5py.File(daemon.path) as file:
        data = file["series_001/instrument/detector/data"]
        np.testing.assert_array_equal(data[0], frame)
        stored = data.id.read_direct_chunk((0, 0, 0))[1]
        assert stored == raw + bytes(len(stored) - len(raw))
        assert file["series_001/instrument/detector/image_key"][:3].tolist() == [0, 3, 3]


def test_a_lost_frame_can_be_taken_again(start: Start) -> None:
    daemon = start()
    daemon.start()
    daemon.frame("series_001", 0, lost=True)
    daemon.frame("series_001", 0)
    daemon.wait_for_credit(2)
    daemon.end()
    report = inspect_file(daemon.path)["series"][0]
    assert (report["frames"], report["lost_frames"]) == (1, 0)


def test_the_parent_dies_in_the_middle(start: Start) -> None:
    daemon = start()
    daemon.start()
    for index in range(3):
        daemon.frame("series_001", index)
        daemon.telemetry(index, temperature_c=20.0)
    daemon.wait_for_credit(3)
    daemon.parent_dies()
    with h5py.File(daemon.path) as file:
        assert file[layout.STATUS][()] == b"interrupted"
        assert file[f"{layout.TELEMETRY}/heater/temperature_c/value"].shape == (3,)
        assert b"without a message" in file[layout.REASON][()]
    assert inspect_file(daemon.path)["frames"] == 3
    errors, answer = nexus_errors(daemon.path, "/entry")
    assert errors == 0, answer


def test_an_end_that_was_still_on_its_way_counts(start: Start) -> None:
    daemon = start()
    daemon.start()
    for series in ("series_001", "series_002"):
        for index in range(5):
            daemon.frame(series, index)
    daemon.send(link.END_TOPIC, {"status": "complete"})
    daemon.parent_dies()
    report = inspect_file(daemon.path)
    assert (report["status"], report["frames"]) == ("complete", 10)


def test_a_killed_recorder_leaves_a_file_that_can_be_read(start: Start) -> None:
    daemon = start()
    daemon.start()
    for index in range(4):
        daemon.frame("series_001", index)
    daemon.wait_until(lambda: bool(daemon.bodies("status")) and daemon.credit_returned == 4)
    before = len(daemon.bodies("status"))
    daemon.wait_until(lambda: len(daemon.bodies("status")) > before)
    daemon.child.kill()
    daemon.child.wait(60)
    report = inspect_file(daemon.path)
    assert (report["status"], report["frames"]) == ("running", 4)


def test_scouts_come_in_order_with_the_frames_and_cost_no_credit(start: Start) -> None:
    daemon = start(tracking=scouted("series_001"))
    credit = daemon.start()
    for index in range(3):
        header, seen = scout("series_001", index, grid=index)
        pixels = {"shape": list(seen.shape), "dtype": "uint16"}
        daemon.send("scout", header | pixels, seen)
        daemon.frame("series_001", index, scouts=1, scout_t_ns=header["t_ns"])
    daemon.wait_for_credit(3)
    assert credit >= 4
    daemon.send("scout", header | {"shape": [2, 2], "dtype": "uint16"}, b"12345678")
    assert "not 'wide' (2, 2)" in daemon.wait_for_event("takes scouts of")["message"]
    daemon.send("scout", {"series": "series_001", "shape": [9], "dtype": "uint16"}, b"1")
    daemon.wait_for_event("payload of")
    assert daemon.end()["frames"] == 3
    with h5py.File(daemon.path) as file:
        assert file["series_001/frames/scout"][...].tolist() == [0, 1, 2, -1, -1]
        grids = file["scouts_001/scouts/grid"].asstr()[...]
        for row, grid in enumerate(grids):
            seen = scout("series_001", row, grid=row)[1]
            assert np.array_equal(file[f"scouts_001/{grid}/data"][0], seen)


def test_a_full_disk_holds_the_schedule_and_loses_nothing(start: Start) -> None:
    daemon = start()
    daemon.start()
    daemon.frame("series_001", 0)
    daemon.wait_for_credit(1)
    _, hard = resource.prlimit(daemon.child.pid, resource.RLIMIT_FSIZE)
    size = daemon.path.stat().st_size
    resource.prlimit(daemon.child.pid, resource.RLIMIT_FSIZE, (size, hard))
    for index in range(1, 5):
        daemon.frame("series_001", index)
        daemon.telemetry(index, temperature_c=20.0)
    assert "Make room" in daemon.wait_for_event("cannot be written")["message"]
    daemon.pump(1.5)
    stopped_at = daemon.credit_returned
    for index in range(5):
        daemon.frame("series_002", index)
    daemon.pump(1.5)
    assert daemon.credit_returned == stopped_at < 5
    resource.prlimit(daemon.child.pid, resource.RLIMIT_FSIZE, (hard, hard))
    daemon.wait_for_event("can be written again")
    daemon.wait_for_credit(10)
    assert daemon.end()["frames"] == 10
    assert len(daemon.bodies("event")) == 2
    with h5py.File(daemon.path) as file:
        for series in ("series_001", "series_002"):
            for index in range(5):
                assert np.array_equal(
                    file[layout.frames_path(series)][index], picture(series, index)
                )
        assert file[f"{layout.TELEMETRY}/heater/temperature_c/value"][...].tolist() == [20.0] * 4


def test_telemetry_at_full_rate(start: Start) -> None:
    daemon = start()
    daemon.start()
    begun = time.monotonic()
    for index in range(1000):
        daemon.telemetry(index, temperature_c=float(index), power_mw=1.0)
        pause = begun + index / 500 - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        if index % 100 == 0:
            daemon.frame("series_001" if index < 500 else "series_002", index // 100 % 5)
    daemon.wait_for_credit(10)
    daemon.end()
    with h5py.File(daemon.path) as file:
        log = file[f"{layout.TELEMETRY}/heater/temperature_c"]
        assert np.array_equal(log["value"][...], np.arange(1000.0))
        assert np.all(np.diff(log["time"][...]) > 0)
