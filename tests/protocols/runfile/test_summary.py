"""What a run file is said to hold, against what was put in."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from rich.console import Console

from pyrotome.daemon.cli.describe import describe, describe_file
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.config.pipeline import MAX_NECKS, NECK_COLUMNS, ResultPlan
from pyrotome.protocols.config.recipe import BeamSettings, Sample
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.manifest import HoldPlan, RunManifest, StackPlan
from pyrotome.protocols.runfile.summary import inspect_file

T0 = 1_800_000_000_000_000_000
S = 1_000_000_000
SHAPE = (8, 10)


def a_manifest(**changes: Any) -> RunManifest:
    def volume(name: str) -> ResultPlan:
        return ResultPlan(
            name=name, step="reconstruct", process=1, parameters={}, shape=(4, 5, 5),
            dtype="float32", axes=("y", "z", "x"), pixel_nm=2.0,
        )  # fmt: skip

    def series(name: str) -> StackPlan:
        return StackPlan(
            name=name, kind="series", frames=3, tilt_deg=(-2.0, 0.0, 2.0),
            results=(volume("volume"), volume("necks")),
        )  # fmt: skip

    beam = {
        "voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": SHAPE,
        "pixel_size": "1 nm",
    }  # fmt: skip
    fields: dict[str, Any] = {
        "run": "r", "title": "A title", "software": "pyrotome 0.1.0", "started_ns": T0,
        "speed": 1.0, "simulated": True, "recipe_text": "", "rig_text": "", "rig_name": "sim",
        "sample": Sample(name="Cu", elements=["Cu"]), "beam": BeamSettings.model_validate(beam),
        "detector": "merlin", "telemetry": {"heater": {"temperature_c": "degC"}},
        "stacks": (
            StackPlan(name="reference_001", kind="reference", frames=2, tilt_deg=(0.0, 0.0)),
            series("series_001"), series("series_002"), series("series_003"),
        ),
        "holds": (
            HoldPlan(index=1, standby_c=200.0, target_c=350.0, requested_s=5.0),
            HoldPlan(index=2, standby_c=200.0, target_c=350.0, requested_s=7.0),
        ),
        "holds_before": {"series_001": 0, "series_002": 1, "series_003": 2},
    }  # fmt: skip
    return RunManifest(**(fields | changes))


def write_frame(file: RunFile, series: str, index: int, temperature_c: float = 200.0) -> None:
    header = {
        "series": series, "index": index, "t_ns": T0 + index, "tilt_deg": -2.0 + 2 * index,
        "temperature_c": temperature_c, "dose_e_per_nm2": 5.0, "dose_total_e_per_nm2": 35.0,
    }  # fmt: skip
    file.write_frame(header, np.full(SHAPE, 7, np.uint16))


def heat(file: RunFile, corners: list[tuple[float, float]], every_s: float = 0.01) -> None:
    """Record telemetry that follows straight lines between (s, deg C) corners."""
    times, levels = np.array(corners).T
    for t_s in np.arange(0, times[-1], every_s):
        value = float(np.interp(t_s, times, levels))
        file.add_telemetry("heater", T0 + round(t_s * S), {"temperature_c": value})


# Up through 275 at 10.3 s, down at 15.302 s; up at 20.25 s, down at 27.2 s.
TWO_HOLDS = [
    (0, 200), (10.2, 200), (10.4, 350), (11, 380), (12, 350), (15.202, 350), (15.402, 200),
    (20.2, 200), (20.3, 350), (27.1, 350), (27.3, 200), (30, 200),
]  # fmt: skip


def test_the_whole_report(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    file = RunFile(path, a_manifest())
    write_frame(file, "reference_001", 0)
    for series in ("series_001", "series_002", "series_003"):
        for index in range(3):
            write_frame(file, series, index, 200.0 + index)
    heat(file, TWO_HOLDS)
    file.add_event({"t_ns": T0, "level": "info", "message": "hello"})
    header = {"series": "series_002", "name": "volume"}
    file.write_result(header, np.zeros((4, 5, 5), np.float32))
    file.set_hold({"index": 1, "commanded_up_ns": T0 + 10 * S, "commanded_down_ns": T0 + 15 * S})
    file.set_hold({"index": 2, "commanded_up_ns": T0 + 20 * S, "commanded_down_ns": T0 + 27 * S})
    file.close("complete", T0 + 60 * S, 47.0, "")
    report = inspect_file(path)
    assert json.loads(json.dumps(report)) == report
    assert list(report) == [
        "title", "status", "started", "software", "frames", "lost_frames", "dose_e_per_nm2",
        "events", "holds", "series", "results", "interruptions",
    ]  # fmt: skip
    assert report["title"] == "A title"
    assert report["status"] == "complete"
    assert report["started"] == "2027-01-15T08:00:00.000Z"
    assert report["software"] == "pyrotome 0.1.0"
    assert (report["frames"], report["lost_frames"], report["events"]) == (10, 0, 1)
    assert report["dose_e_per_nm2"] == 47.0
    first, second = report["holds"]
    assert list(first) == ["index", "target_c", "requested_s", "achieved_s", "median_c", "max_c"]
    assert (first["index"], first["target_c"], first["requested_s"]) == (1, 350.0, 5.0)
    assert first["achieved_s"] == pytest.approx(5.002, abs=1e-6)
    assert first["median_c"] == pytest.approx(350.0)
    assert first["max_c"] == pytest.approx(380.0)
    assert second["achieved_s"] == pytest.approx(6.95, abs=1e-6)
    assert second["max_c"] == pytest.approx(350.0)
    assert [series["name"] for series in report["series"]] == [
        "series_001", "series_002", "series_003"
    ]  # fmt: skip
    one, two, three = report["series"]
    assert list(one) == [
        "name", "frames", "lost_frames", "tilt_deg", "shape", "temperature_mean_c",
        "temperature_std_c", "dose_e_per_nm2", "hold_total_s", "results", "warnings", "tracking",
    ]  # fmt: skip
    assert one["tilt_deg"] == [-2.0, 0.0, 2.0]
    assert one["shape"] == list(SHAPE)
    assert one["temperature_mean_c"] == pytest.approx(201.0)
    assert one["temperature_std_c"] == pytest.approx(np.std([200, 201, 202]))
    assert one["dose_e_per_nm2"] == pytest.approx(15.0)
    assert one["hold_total_s"] == 0.0
    assert two["hold_total_s"] == pytest.approx(5.002, abs=1e-6)
    assert three["hold_total_s"] == pytest.approx(11.952, abs=1e-6)
    assert (one["results"], two["results"], three["results"]) == ([], ["volume"], [])

    screen = io.StringIO()
    Console(file=screen, width=120).print(describe(report))
    text = screen.getvalue()
    for expected in ("A title", "complete", "10 frames", "5.002 s", "-2 … +2", "volume"):
        assert expected in text


def necks_table(ratios: list[float]) -> np.ndarray[Any, Any]:
    table = np.full((MAX_NECKS, len(NECK_COLUMNS)), np.nan)
    table[: len(ratios)] = 1.0
    table[: len(ratios), NECK_COLUMNS.index("neck_to_particle")] = ratios
    return table


def test_results_as_a_person_sees_them(tmp_path: Path) -> None:
    def plans(first: int) -> tuple[ResultPlan, ...]:
        shapes: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
            "volume": ((4, 5, 5), ("y", "z", "x")), "slice_x": ((4, 5), ("y", "z")),
            "necks": ((MAX_NECKS, len(NECK_COLUMNS)), ("pair", "column")),
        }  # fmt: skip
        return tuple(
            ResultPlan(
                name=name, step="s", process=first + (name == "necks"), parameters={},
                shape=shape, dtype="float64", axes=axes, pixel_nm=2.0,
            )
            for name, (shape, axes) in shapes.items()
        )  # fmt: skip

    stacks = tuple(
        StackPlan(
            name=f"series_{n:03d}", kind="series", frames=3, tilt_deg=(-2.0, 0.0, 2.0),
            results=plans(1) + plans(3),
        )
        for n in (1, 2, 3, 4)
    )  # fmt: skip
    file = RunFile(tmp_path / "run.nxs", a_manifest(stacks=stacks, holds_before={}))
    for number in (1, 2, 3):
        for index in range(3):
            if (number, index) != (2, 1):
                write_frame(file, f"series_{number:03d}", index)
    file.close("complete", None, None, "")
    # The second processing measured other necks than the first.
    with h5py.File(file.path, "r+") as opened:
        for number, ratios in ((1, [0.1, 0.2, 0.6]), (2, []), (3, [0.5])):
            for process, shown in ((1, [9.0]), (3, ratios)):
                stack = opened[f"series_{number:03d}"]
                stack[f"process_{process:03d}/volume/data"][...] = 0
                stack[f"process_{process:03d}/slice_x/data"][...] = 0
                stack[f"process_{process + 1:03d}/necks/data"][...] = necks_table(shown)
    report = inspect_file(file.path)
    assert [s["results"] for s in report["series"]] == [["slice_x", "volume", "necks"]] * 3 + [[]]
    screen = io.StringIO()
    Console(file=screen, width=80).print(describe_file(file.path))
    lines = [" ".join(line.split()) for line in screen.getvalue().splitlines()]
    at = lines.index("Results (medians of the pairs)")
    assert lines[at + 1 : at + 5] == [
        "volume (y z x) voxel/nm pairs r_n/r_p d/2r_p",
        "series_001 4 x 5 x 5 2 3 0.200 1.000",
        "series_002 4 x 5 x 5 2 0 – –",
        "series_003 4 x 5 x 5 2 1 0.500 1.000",
    ]
    assert "series_001 to series_003: volume, necks" in lines
    assert "series_002 lacks +0°" in lines
    assert any(line.startswith("series_002 2 of 3 -2 … +2") for line in lines)
    assert lines[-1] == "1 planned tilt series not begun"


def test_a_growing_file_and_an_aborted_one(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    file = RunFile(path, a_manifest())
    empty = inspect_file(path)
    assert (empty["status"], empty["frames"], empty["dose_e_per_nm2"]) == ("running", 0, None)
    assert empty["holds"][0]["achieved_s"] is None
    assert empty["series"][0]["temperature_mean_c"] is None
    assert empty["series"][0]["tilt_deg"] == []
    write_frame(file, "series_001", 0)
    file.write_frame({"series": "series_001", "index": 1, "t_ns": T0, "dose_e_per_nm2": 5.0}, None)
    heat(file, TWO_HOLDS[:6])  # up, and not yet down
    file.set_hold({"index": 1, "commanded_up_ns": T0 + 10 * S})
    file.flush()
    for status in ("running", "aborted"):
        if status == "aborted":
            file.close("aborted", None, None, "Ctrl-C")
        report = inspect_file(path)
        assert (report["status"], report["frames"], report["lost_frames"]) == (status, 1, 1)
        assert report["dose_e_per_nm2"] == 35.0
        assert [hold["achieved_s"] for hold in report["holds"]] == [None, None]
        one, two, _ = report["series"]
        assert (one["frames"], one["lost_frames"], one["tilt_deg"]) == (1, 1, [-2.0])
        assert one["dose_e_per_nm2"] == 10.0, "a lost frame has cost its dose"
        assert two["hold_total_s"] is None
        Console(file=io.StringIO()).print(describe(report))


def test_holds_without_commanded_times_are_found_in_turn(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "run.nxs", a_manifest())
    heat(file, TWO_HOLDS)
    file.close("complete", None, None, "")
    achieved = [hold["achieved_s"] for hold in inspect_file(file.path)["holds"]]
    assert achieved == pytest.approx([5.002, 6.95], abs=1e-6)


def test_a_hold_that_never_came_is_not_taken_from_a_later_rise(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "run.nxs", a_manifest())
    heat(file, TWO_HOLDS)
    file.set_hold({"index": 1, "commanded_up_ns": T0 + 10 * S, "commanded_down_ns": T0 + 15 * S})
    file.close("aborted", None, None, "")
    first, second = inspect_file(file.path)["holds"]
    assert first["achieved_s"] == pytest.approx(5.002, abs=1e-6)
    assert second["achieved_s"] is None


def test_other_names_of_the_temperature(tmp_path: Path) -> None:
    for number, channels in enumerate(({"T": "degC"}, {"power": "mW", "temperature": ""})):
        manifest = a_manifest(telemetry={"heater": channels})
        file = RunFile(tmp_path / f"{number}.nxs", manifest)
        name = next(n for n in channels if n != "power")
        for t_s, value in ((0, 200), (1, 350), (3, 350), (4, 200)):
            file.add_telemetry("heater", T0 + t_s * S, {name: value})
        file.close("complete", None, None, "")
        assert inspect_file(file.path)["holds"][0]["achieved_s"] == pytest.approx(3.0)


def test_files_that_are_not_run_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "recipe.yaml"
    text.write_text("title: x")
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["data"] = [1]
    damaged = tmp_path / "damaged.nxs"
    run = RunFile(tmp_path / "run.nxs", a_manifest())
    run.close("complete", None, None, "")
    damaged.write_bytes(run.path.read_bytes()[:5000])
    for path, problem in (
        (tmp_path / "missing.nxs", "no such file"),
        (tmp_path, "is a folder"),
        (text, "is not an HDF5 file"),
        (other, "not a run file"),
        (damaged, "HDF5 cannot open it"),
    ):
        with pytest.raises(BadInput, match=problem) as caught:
            inspect_file(path)
        assert str(path) in str(caught.value)
