"""A tilt series on a column that errs as a real one does: the specimen stays in the frame."""

from __future__ import annotations

import json
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 the frames' filter
import numpy as np
import pytest
from tracked import TRACKED, offsets_nm, realistic

import pyrotome

# Without tracking the height of 2 um and more moves the image by 1300 nm at 40 deg.
STEEP_DEG, KEPT_NM = 20.0, 450.0


def test_the_specimen_stays_in_the_frame(cli: Any) -> None:
    done = cli(
        "run", cli.recipe(**TRACKED, analysis=[]), "--rig", cli.rig(**realistic(cli.folder)),
        "-o", "run.nxs", "--simulator-log", "world.log",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    steep = [row for row in offsets_nm(cli.folder / "world.log") if abs(row[0]) > STEEP_DEG]
    assert len(steep) == 6
    assert np.median(np.abs(steep), axis=0)[2] < KEPT_NM
    with pyrotome.open(cli.folder / "run.nxs") as run:
        measured = run.telemetry["tracker"]["offset_x_nm"].values
        shifts = run.telemetry["beam"]["shift_x_nm"].values
        told = run.series[1].tracking
        columns = told.offset_measured_nm, told.shift_applied_nm, told.shift_predicted_sd_nm
        measured_in_file = [np.isfinite(values).all(axis=1).sum() for values in columns]
        score, scouts = told.registration_score, told.scouts
    assert measured_in_file == [11, 11, 11]
    assert score.min() > 0.1
    assert scouts.tolist() == [0] * 11
    assert np.isfinite(measured).sum() >= 9
    assert np.nanmax(np.abs(shifts)) > 300
    assert not (cli.folder / "run.nxs.tracking").exists(), "it has served"
    with h5py.File(cli.folder / "run.nxs") as file:
        assert file["entry/run/status"][()].rstrip(b"\0") == b"complete"


@pytest.mark.parametrize(
    ("changes", "rig", "words"),
    [
        ({}, {}, "names no calibrated beam shift"),
        ({"steps": [{"tilt_series": {"from": "-40 deg", "to": "40 deg", "step": "8 deg"}}]},
         None, "begins at -40 deg, and nothing has followed the specimen"),
        ({"track": "hope"}, None, "track"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_check(
    cli: Any, changes: dict[str, Any], rig: dict[str, Any] | None, words: str
) -> None:
    rig_file = cli.rig(**(realistic(cli.folder) if rig is None else rig))
    done = cli("check", cli.recipe(**{**TRACKED, **changes}, analysis=[]), "--rig", rig_file)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_check_tells_what_to_expect(cli: Any) -> None:
    rig = realistic(cli.folder)
    done = cli("check", cli.recipe(**TRACKED, analysis=[]), "--rig", cli.rig(**rig), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["tracking"]
    (series,) = told["series"]
    assert told["basis"] == "assumptions"
    assert 50 < series["expected_rms_nm"] < 100
    assert (told["shift_limit_nm"], series["beyond_shift_limit"]) == (1900, False)
    assert series["depth_of_focus_nm"] == 684
    (cli.folder / "column.json").write_text("{}")
    rig_file = cli.rig(**rig, goniometer_file="column.json")
    done = cli("check", cli.recipe(**TRACKED, analysis=[]), "--rig", rig_file)
    assert done.returncode == 2
    assert "is no goniometer file" in done.stderr
