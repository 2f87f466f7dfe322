"""A tilt series on a column that errs as a real one does: the specimen stays in the frame."""

from __future__ import annotations

import json
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 the frames' filter
import numpy as np
import pytest
from tracked import SERIES, TRACKED, offsets_nm, realistic

import pyrotome
from pyrotome.protocols.config.recipe import BeamSettings

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
        score, scouts, stage_nm = told.registration_score, told.scouts, told.stage_nm
    assert measured_in_file == [11, 11, 11]
    assert score.min() > 0.1
    assert scouts.tolist() == [0] * 11
    assert np.isfinite(stage_nm).all()
    assert np.isfinite(measured).sum() >= 9
    assert np.nanmax(np.abs(shifts)) > 300
    assert not (cli.folder / "run.nxs.tracking").exists(), "it has served"
    with h5py.File(cli.folder / "run.nxs") as file:
        assert file["entry/run/status"][()].rstrip(b"\0") == b"complete"


def test_scouts_keep_it_within_nanometres(cli: Any) -> None:
    # A busy computer leaves the beam on for longer.
    track = {"by": "model", "keep_within": "always", "scouts": "200 e/nm^2"}
    recipe = TRACKED | {"track": track, "limits": {"dose": "900 e/nm^2"}}
    done = cli(
        "run", cli.recipe(**recipe, analysis=[]), "--rig",
        cli.rig(**realistic(cli.folder)), "-o", "run.nxs", "--simulator-log", "world.log",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tracking series_001, trusted" in done.stdout + done.stderr
    lines = [json.loads(line) for line in (cli.folder / "world.log").read_text().splitlines()]
    exposures = [line for line in lines if line["event"] == "exposure"]
    frames = [e for e in exposures if e["shape"] == [128, 128]]
    scouts = [e for e in exposures if e["shape"] == [64, 64]]
    assert len(frames) == 11
    assert len(scouts) >= 10, "one before every frame but the first"
    # The first frame of a series with a large correction leaves what the calibration is wrong by.
    off = np.hypot(*np.array([e["offset_nm"] for e in frames]).T)
    assert np.median(off[1:]) < 5
    assert off.max() < 50
    with pyrotome.open(cli.folder / "run.nxs") as run:
        told, recorded = run.series[1].tracking, run.series[1].scouts
        pictures = [recorded.picture(row) for row in range(len(recorded))]
    assert len(recorded) == len(scouts) == told.scouts.sum()
    assert set(recorded.kind) == {"scout"}
    assert recorded.tilt_deg == pytest.approx([e["tilt_deg"] for e in scouts], abs=0.5)
    assert (
        told.scout[told.scouts > 0].tolist()
        == (np.cumsum(told.scouts[told.scouts > 0]) - 1).tolist()
    )
    assert all(picture.shape == (64, 64) for picture in pictures)
    electrons = recorded.dose_e_per_nm2 * (128 * 8.32) ** 2
    assert 0 < np.sum(pictures) < 2 * electrons.sum()
    (world,) = (line for line in lines if line["event"] == "dose")
    charged = cli.inspect("run.nxs")["dose_e_per_nm2"]
    # When a blanker switched is known to a millisecond or two where the computer is busy.
    beam = BeamSettings.model_validate(TRACKED["beam"])
    unsure = len(exposures) * beam.parked_dose_e_per_nm2(0.002)
    world_e_per_nm2 = world["total_e_per_nm2"]
    assert charged == pytest.approx(world_e_per_nm2, abs=0.02 * world_e_per_nm2 + unsure)


def test_height_way_and_drift_are_looked_after_before_a_frame(cli: Any) -> None:
    """An ascending first series: its begin is far from where the user has centred."""
    series = {"tilt_series": {"from": "-40 deg", "to": "40 deg", "step": "8 deg"}}
    cycle = {"standby": "100 degC", "processing": "300 degC", "holds": ["5 s", "5 s"]}
    recipe = TRACKED | {
        "track": {"by": "model", "scouts": "30 e/nm^2"},
        "settle": {"drift_below": "1 nm/s", "at_most": "1 min"},
        "steps": [TRACKED["steps"][0], {"calibrate": "height"}, series,
                  {"cycle": cycle | {"then": [series]}}],
        # A busy computer leaves the beam on for longer.
        "limits": {"dose": "900 e/nm^2"},
    }  # fmt: skip
    done = cli(
        "run", cli.recipe(**recipe, analysis=[]), "--rig", cli.rig(**realistic(cli.folder)),
        "-o", "run.nxs", "--simulator-log", "world.log", "--speed", "30",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (cli.folder / "world.log").read_text().splitlines()]
    frames = [e for e in lines if e["event"] == "exposure" and e["shape"] == [128, 128]]
    off = np.hypot(*np.array([e["offset_nm"] for e in frames]).T)
    assert len(off) == 33
    assert off.max() < KEPT_NM
    assert np.median(off) < 150
    with pyrotome.open(cli.folder / "run.nxs") as run:
        said = [event.message for event in run.events]
        tracking = run.series[3].tracking
        assert tracking is not None
        drift_nm_per_s = tracking.drift_speed_nm_per_s[0]
    assert not any("blurred by" in text for text in said), "the frames are in focus"
    (height,) = (text for text in said if "nm over the axis" in text)
    (left,) = (text for text in said if "nm are left" in text)
    assert abs(float(height.split("stands ")[1].split()[0])) > 1000
    assert abs(float(left.split(": ")[1].split()[0])) < 500
    # What a hold does is learned from the first one. Where a busy computer was late, the drift has
    # died down meanwhile.
    waits = [text for text in said if "with the beam blanked, until the drift" in text]
    assert all(text.startswith("series_003 waits ") for text in waits)
    assert waits or drift_nm_per_s < 1


def test_a_series_has_settings_of_its_own(cli: Any) -> None:
    """Scouts before each frame of the first series, the beam left alone in the second."""
    track = {"keep_within": "always", "scouts": "30 e/nm^2"}
    narrow = SERIES["tilt_series"] | {"from": "-16 deg", "to": "16 deg"}
    steps = [{"tilt_series": narrow | {"track": how}} for how in (track, "none")]
    recipe = cli.recipe(**TRACKED | {"steps": steps}, analysis=[])
    rig = cli.rig(**realistic(cli.folder))
    told = json.loads(cli("check", recipe, "--rig", rig, "--json").stdout)
    assert [one["name"] for one in told["tracking"]["series"]] == ["series_001"]
    assert told["tracking"]["series"][0]["scouts"] == 4
    assert told["tracking"]["not_tracked"] == ["series_002"]
    assert told["dose_of_scouts_e_per_nm2"] == 30
    assert "not tracked: series_002" in cli("check", recipe, "--rig", rig).stdout
    done = cli("run", recipe, "--rig", rig, "-o", "run.nxs")
    assert done.returncode == 0, done.stderr
    with pyrotome.open(cli.folder / "run.nxs") as run:
        first, second = (run.series[number].tracking for number in (1, 2))
        said = [event.message for event in run.events]
    assert first.scouts.tolist() == [0, 1, 1, 1, 1]
    assert np.isfinite(first.shift_predicted_nm[1:]).all()
    assert second.scouts.tolist() == [0] * 5
    assert np.ptp(second.shift_applied_nm, axis=0).max() == 0, "the beam stays where it is"
    assert np.isnan(second.shift_predicted_nm).all()
    assert not any("series_002 " in text and "off" in text for text in said)


@pytest.mark.parametrize(
    ("changes", "rig", "words"),
    [
        ({}, {}, "names no calibrated beam shift"),
        ({"steps": [{"tilt_series": {"from": "-40 deg", "to": "40 deg", "step": "8 deg"}}]},
         None, "begins at -40 deg, and nothing has followed the specimen"),
        ({"track": "hope"}, None, "track"),
        ({"steps": [{"calibrate": "height"}]}, None, "needs tracking with scouts"),
        ({"track": "none", "settle": {"drift_below": "1 nm/s"}}, None, "needs the drift"),
        ({"track": {"scouts": "300 e/nm^2"}}, None, "300 by scouts (track.scouts)"),
        ({"focus": {"within": "100 nm"}}, None, "write by: series too"),
        ({"focus": {"by": "series", "dose": "90 e/nm^2"}}, None, "90 by focus series (focus.dose)"),
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
    assert series["focus_dose_e_per_nm2"] == 0
    (cli.folder / "column.json").write_text("{}")
    rig_file = cli.rig(**rig, goniometer_file="column.json")
    done = cli("check", cli.recipe(**TRACKED, analysis=[]), "--rig", rig_file)
    assert done.returncode == 2
    assert "is no goniometer file" in done.stderr
