"""Tracking in a run file: columns of a frame from its messages, figures of a series."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 the frames' filter
import numpy as np
import pytest
from recorder_link import T0, S, a_manifest, picture

import pyrotome
from pyrotome.daemon.recording.buffers import BadRecord
from pyrotome.daemon.recording.recovery import recover
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.core.errors import BadMessage
from pyrotome.protocols.messages.manifest import Interruption, TrackingPlan
from pyrotome.protocols.messages.offsets import offset_message
from pyrotome.protocols.messages.tracking import OffsetMeasured
from pyrotome.protocols.runfile.summary import inspect_file
from pyrotome.protocols.runfile.tracking_columns import frame_stamps

PLAN = TrackingPlan(settings={"track.by": "model", "track.lost_beyond": 0.3}, lost_beyond_nm=10.0)
TRACKED = a_manifest(tracking=PLAN)


def frame(file: RunFile, index: int, series: str = "series_001", **more: Any) -> None:
    header = {
        "series": series, "index": index, "t_ns": T0 + index * S, "shift_nm": [10.0 * index, -2.0],
        "shift_predicted_nm": [10.0 * index, 0.0], "shift_sd_nm": [4.0, 5.0], "defocus_nm": 100.0,
        "defocus_sd_nm": 130.0, "drift_nm_per_s": 0.5, "stage_x_nm": -500.0,
        "stage_z_nm": 1000.0 + index,
    }  # fmt: skip
    file.write_frame(header | more, picture(series, index))


def offset(file: RunFile, index: int, **more: Any) -> None:
    found = {"offset_nm": (3.0, -4.0), "sd_nm": (0.5, 0.5), "score": 0.7} | more
    told = OffsetMeasured(
        t_ns=T0, series="series_001", index=index, scan="frame", tilt_deg=0.0, **found
    )
    file.set_offset(offset_message(told).header)


def test_columns_and_figures_go_through_a_kill_and_a_resumed_run(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    file = RunFile(path, TRACKED)
    for index in range(2):
        frame(file, index)
        offset(file, index)
    file.flush()
    left = tmp_path / "left.nxs"
    left.write_bytes(path.read_bytes())  # as a kill would leave it
    file.close("aborted", None, 1.0, "")
    assert not recover(left).lost
    gap = Interruption(from_ns=T0 + 3 * S, until_ns=T0 + 9 * S)
    file = RunFile(left, TRACKED, gap)
    frame(file, 2, scouts=2, scout_dose_e_per_nm2=0.05)
    offset(file, 2, offset_nm=(30.0, 0.0), doubt="decoy")
    frame(file, 3)
    offset(file, 3, offset_nm=(-12.0, 0.0))
    file.close("complete", None, 1.0, "")
    with pyrotome.open(left) as run:
        told = run.series[1].tracking
        assert run.series[1].results == {}
        assert run.last_process == 0
        row = run.values("/entry/process_tracking/series/offset_largest")
    assert told is not None
    assert told.shift_applied_nm[:4, 0].tolist() == [0, 10, 20, 30]
    assert told.offset_predicted_nm[1].tolist() == [0, -2]
    assert np.isfinite(told.offset_measured_nm[:, 0]).tolist() == [1, 1, 0, 1, 0]
    assert told.registration_score[2] == 0.7
    assert told.scouts.tolist() == [0, 0, 2, 0, -1]
    assert told.stage_nm[:, 0].tolist()[:4] == [-500] * 4
    assert np.isnan(told.stage_nm[:, 1]).all(), "the stage does not tell its y"
    assert told.stage_nm[3, 2] == 1003
    with h5py.File(left) as raw:
        assert raw["series_001/frames/stage_z"].attrs["units"] == "nm"
    assert row[0].tolist() == [12, 4]
    assert np.isnan(row[1]).all()
    figures = inspect_file(left)["series"][0]["tracking"]
    assert figures == {
        "frames_measured": 3, "frames_not_believed": 1, "frames_off": 1, "lost_beyond_nm": 10.0,
        "offset_rms_nm": [pytest.approx(math.sqrt(54)), pytest.approx(math.sqrt(32 / 3))],
        "offset_largest_nm": [12.0, 4.0], "scouts": 2, "scout_dose_e_per_nm2": 0.05,
        "scout_pictures": 0, "stage_nm": {"x": [-500, -500], "y": None, "z": [1000, 1003]},
    }  # fmt: skip
    assert "2 of 4 frames were off" in inspect_file(left)["series"][0]["warnings"][0]


def test_a_file_without_the_columns_of_the_stage_is_read_and_resumed(tmp_path: Path) -> None:
    """Files that an earlier build has written."""
    path = tmp_path / "run.nxs"
    file = RunFile(path, TRACKED)
    frame(file, 0)
    file.close("aborted", None, 1.0, "")
    with h5py.File(path, "r+") as raw:
        for axis in "xyz":
            for series in ("series_001", "series_002"):
                del raw[f"{series}/frames/stage_{axis}"]
    with pyrotome.open(path) as run:
        told = run.series[1].tracking
    assert told is not None
    assert told.shift_applied_nm[0].tolist() == [0, -2]
    assert np.isnan(told.stage_nm).all()
    file = RunFile(path, TRACKED, Interruption(from_ns=T0 + 3 * S, until_ns=T0 + 9 * S))
    frame(file, 1)
    file.close("complete", None, 1.0, "")
    with pyrotome.open(path) as run:
        told = run.series[1].tracking
    assert told is not None
    assert np.isfinite(told.stage_nm[:, 2]).tolist() == [0, 1, 0, 0, 0]


def test_an_offset_without_a_place_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    file = RunFile(path, TRACKED)
    frame(file, 0)
    for told, why in (
        ({"series": "series_001", "index": 1}, "was not taken"),
        ({"series": "series_001", "index": 99}, "was not taken"),
        ({"series": "ramp_001", "index": 0}, "no series that this file tracks"),
    ):
        with pytest.raises(BadRecord, match=why):
            file.set_offset(told)
    with pytest.raises(BadMessage):
        file.set_offset({"series": "series_001", "index": -1})
    file.close("complete", None, 1.0, "")
    assert inspect_file(path)["series"][0]["tracking"]["frames_measured"] == 0


def test_a_run_that_does_not_track_has_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    file = RunFile(path, a_manifest())
    frame(file, 0)
    with pytest.raises(BadRecord):
        offset(file, 0)
    file.close("complete", None, 1.0, "")
    with pyrotome.open(path) as run:
        assert run.series[1].tracking is None
    assert inspect_file(path)["series"][0]["tracking"] is None


@pytest.mark.parametrize("wrong", [None, [1], [1, "2"], [1, math.inf], [10**400, 0], {"y": 1}])
def test_nonsense_in_a_header_is_unknown(wrong: object) -> None:
    stamps = frame_stamps({"shift_nm": wrong, "scouts": -3, "defocus_nm": wrong})
    assert np.isnan(stamps["shift_nm"]).all()
    assert math.isnan(stamps["defocus_nm"])
    assert stamps["scouts"] == -1
