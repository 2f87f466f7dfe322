"""The reader of run files, which is the Python API: what it gives, and what it refuses."""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import pyrotome
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.runfile import layout
from pyrotome.protocols.runfile.reader import NotRecorded, open_run

DATA = Path(__file__).resolve().parents[2] / "data"


def unpacked(name: str, folder: Path) -> Path:
    path = folder / f"{name}.nxs"
    path.write_bytes(lzma.decompress((DATA / f"{name}_0_1_0.nxs.xz").read_bytes()))
    return path


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """A complete run with two holds, two tilt series and their results."""
    return unpacked("complete", tmp_path)


def test_a_run_gives_its_series_with_one_value_a_frame(complete: Path) -> None:
    with pyrotome.open(complete) as run:
        assert [stack.name for stack in run.series] == ["series_001", "series_002"]
        assert run.series["series_002"] is run.series[2] is run.stacks["series_002"]
        series = run.series[1]
        with h5py.File(complete) as file:
            raw = file["series_001/instrument/detector/data"]
            assert np.array_equal(series.frames.raw[2], raw[2])
            assert np.array_equal(series.tilt_deg, file["series_001/sample/rotation_angle"])
            assert np.array_equal(series.dose_e_per_nm2, file["series_001/frames/dose"])
            assert np.array_equal(series.temperature_c, file["series_001/sample/temperature"])
        assert series.recorded.all()
        assert series.frames.shape == (6, 48, 48)
        assert len(list(series.frames)) == 6
        assert np.asarray(series.frames).shape == (6, 48, 48)
        assert series.nominal_tilt_deg == pytest.approx([-40, -24, -8, 8, 24, 40])
        assert series.views_deg == (-40, -24, -8, 8, 24, 40)
        moments = series.time_utc
        assert (np.diff(moments) > np.timedelta64(0)).all()
        assert str(moments[0]).startswith("2026-11-27T05:")
        assert run.started is not None
        assert moments[0] > np.datetime64(run.started.rstrip("Z"))


def test_values_are_those_of_the_detector(complete: Path) -> None:
    with pyrotome.open(complete) as run:
        recorded = np.asarray(run.series[1].frames.raw[0])
    with h5py.File(complete, "r+") as file:
        file[layout.value_offset_path("series_001")][()] = 7
        file[layout.value_offset_path("series_002")][()] = 1_000_000
        file[layout.value_scale_path("series_002")] = 0.25
    with pyrotome.open(complete) as run:
        first, second = run.series
        assert np.array_equal(first.frames[0], recorded.astype(int) - 7)
        assert first.frames[0].min() < 0, "unsigned counts do not wrap"
        assert np.array_equal(first.frame_values(0), recorded.astype(np.float32) - 7)
        steps = second.frames.raw[1:3, :4].astype(np.float64) - 1_000_000
        assert np.array_equal(second.frames[1:3, :4], (steps / 4).astype(np.float32))
        assert second.frames.dtype == second.frames[0].dtype == np.float32


def test_results_have_axes_units_and_parameters(complete: Path) -> None:
    with pyrotome.open(complete) as run:
        series = run.series[1]
        volume = series.result("volume")
        assert volume.shape == volume.data.shape == np.asarray(volume).shape == (24, 24, 24)
        assert [(axis.name, axis.units) for axis in volume.axes] == [(n, "nm") for n in "yzx"]
        assert all(np.allclose(np.diff(axis.values), 18.0) for axis in volume.axes)
        assert volume.parameters["method"] == "sirt"
        assert volume.parameters["iterations"] == 20
        assert list(series.results)[:3] == ["aligned", "shifts", "slice_x"]
        with pytest.raises(BadInput, match=r"series_001: has no result 'atoms'; it has aligned, "):
            series.result("atoms")


def test_telemetry_holds_and_events(complete: Path) -> None:
    with pyrotome.open(complete) as run:
        log = run.telemetry["heater"]["temperature_c"]
        assert len(log.time_s) == len(log.values) == len(log) > 100
        assert log.units == "degC"
        assert 350 < log.values.max() < 400
        assert (np.diff(log.time_s) > 0).all()
        assert log.time_utc[0] < log.time_utc[-1]
        assert [hold.requested_s for hold in run.holds] == [1.0, 2.0]
        assert all(hold.figures is not None for hold in run.holds)
        assert len(run.events) == run.event_count > 5
        assert {event.level for event in run.events} >= {"info"}
        assert any("hold 1" in event.message for event in run.events)
        assert run.hold_totals_s["series_002"] == pytest.approx(3.0, abs=0.1)
        with pytest.raises(KeyError):
            run.telemetry["furnace"]


def test_a_person_can_read_what_it_is(complete: Path) -> None:
    with pyrotome.open(complete) as run:
        text = repr(run)
        assert "complete.nxs: Two holds, recorded by version 0.1.0 (complete)" in text
        assert "series_001: 6 frames of 48 x 48, -40.0 to +40.0 deg; results aligned," in text
        assert "2 holds, " in text
        assert "heater" in repr(run.telemetry)
        assert repr(run.series[1].result("volume")) == (
            "<result volume: 24 x 24 x 24 (y/nm, z/nm, x/nm), process 2>"
        )
    assert repr(run) == "<run file complete.nxs, closed>"


def test_what_cannot_be_read_is_said(complete: Path, tmp_path: Path) -> None:
    with pyrotome.open(complete) as run:
        with pytest.raises(BadInput, match=r"has no series_007; it has series_001, series_002"):
            run.series[7]
        with pytest.raises(BadInput, match="holds 2 tilt series"):
            run.one_series(None)
    with pytest.raises(BadInput, match="no such file"):
        pyrotome.open(tmp_path / "no.nxs")
    with pytest.raises(BadInput, match="is a folder"):
        pyrotome.open(tmp_path)
    (tmp_path / "text.nxs").write_text("frames")
    with pytest.raises(BadInput, match="is not an HDF5 file, so it is not a run file"):
        pyrotome.open(tmp_path / "text.nxs")
    with h5py.File(tmp_path / "other.nxs", "w") as file:
        file["x"] = 1
    with pytest.raises(BadInput, match="is HDF5 but not a run file"):
        pyrotome.open(str(tmp_path / "other.nxs"))
    with h5py.File(complete, "r+") as file:
        del file[layout.column_path("series_001", "tilt_deg")]
        file[layout.column_path("series_001", "tilt_deg")] = np.zeros(3)
    with pytest.raises(BadInput, match="series_001: has 6 frames and 3 angles"):
        pyrotome.open(complete)


def test_the_file_of_a_killed_run_is_read_as_growing(tmp_path: Path) -> None:
    path = unpacked("interrupted", tmp_path)
    with pytest.raises(BadInput, match=f"run `pyrotome recover {path}`"):
        pyrotome.open(path)
    with pyrotome.open(path, growing=True) as run:
        assert run.status == "running"
        series = run.series[1]
        assert 0 < series.recorded.sum() < series.frame_count
        assert np.array_equal(series.wait_for_frame(0, 0.0), series.frames.raw[0])
        with pytest.raises(NotRecorded, match="frame 5 did not appear within 0 s"):
            series.wait_for_frame(5, 0.0)
        assert "of 6 frames" in repr(series)
        assert len(run.telemetry["heater"]["temperature_c"]) > 10


def test_a_damaged_file_is_named(complete: Path) -> None:
    with h5py.File(complete, "r+") as file:
        del file[layout.image_key_path("series_002")]
    with pytest.raises(BadInput, match=r"complete\.nxs: is a damaged or unfinished run file"):
        open_run(complete)


def test_a_copy_of_a_run_can_be_read_without_its_folder(complete: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(complete, folder / "a.nxs")
    folder.chmod(0o555)
    try:
        with pyrotome.open(folder / "a.nxs") as run:
            assert run.status == "complete"
    finally:
        folder.chmod(0o755)


def modules_after(statement: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"numpy", "h5py", "zmq", "numba", "scipy", "pydantic", "matplotlib"}
    assert not heavy & modules_after("import pyrotome")
    loaded = modules_after("import pyrotome\npyrotome.open")
    assert "h5py" in loaded
    assert not {"zmq", "numba", "scipy", "matplotlib"} & loaded


def test_every_public_name_is_there() -> None:
    assert set(pyrotome.__all__) <= set(dir(pyrotome))
    for name in pyrotome.__all__:
        assert getattr(pyrotome, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'close'"):
        _ = pyrotome.close
