"""``pyrotome calibrate`` on a column whose shift is turned and scaled."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from microscope import Microscope
from tracked import SERIES, SHIFT, SIMULATOR, TRACKED, realistic

import pyrotome
from pyrotome.protocols.config.shift_calibration import load_shift_calibration
from pyrotome.protocols.config.simulated import SimulatedColumn

BEAM = {**TRACKED["beam"], "frame": [256, 256], "pixel_size": "4.16 nm"}
# Scans of 82 ms: what the blanker adds to them is small.
SLOW = {**TRACKED["beam"], "dwell": "20 us", "current": "2 pA"}
STEPS = [{"calibrate": "shifts"}, SERIES]


def truth() -> np.ndarray[Any, Any]:
    """The matrix of the simulated column; the scan is turned, and with it the image's axes."""
    turn = np.radians(1.5)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return turned @ np.array(SimulatedColumn.REALISTIC["shift_matrix"])


def world_of(path: Path) -> tuple[list[dict[str, Any]], float]:
    """Exposures of the simulated world, and all the dose that it counts, in e/nm^2."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (dose,) = (line["total_e_per_nm2"] for line in lines if line["event"] == "dose")
    return [line for line in lines if line["event"] == "exposure"], dose


def said(path: Path) -> list[str]:
    with pyrotome.open(path) as run:
        return [event.message for event in run.events]


def test_the_matrix_is_found_and_written(cli: Any) -> None:
    changes = realistic(cli.folder)
    (cli.folder / "shift.json").unlink()
    simulator = {**SIMULATOR, "goniometer": {"ideal": True}, "chip": {"ideal": True}}
    rig = cli.rig(**{**changes, "simulator": simulator})
    recipe = cli.recipe(**{**TRACKED, "beam": BEAM, "track": "none", "limits": {}}, analysis=[])
    done = cli("calibrate", recipe, "--rig", rig)
    assert done.returncode == 0, done.stderr
    found = load_shift_calibration(cli.folder / "shift.json")
    np.testing.assert_allclose(found.matrix_nm, truth(), atol=0.01)
    sd = np.sqrt(np.diag(found.covariance_nm2)).reshape(2, 2)
    assert (np.abs(np.array(found.matrix_nm) - truth()) < 5 * sd).all()
    assert (found.unit, found.voltage_kv, found.scan_rotation_deg) == ("nm", 300.0, 1.5)
    assert "e/nm²" in done.stderr


def test_the_command_charges_what_the_world_counts(cli: Any) -> None:
    microscope = Microscope(cli.folder, **realistic(cli.folder))
    try:
        recipe = cli.recipe(**TRACKED | {"beam": SLOW, "track": "none"}, analysis=[])
        done = cli("calibrate", recipe, "--rig", str(microscope.write_rig()))
        world = microscope.log().fluence_e_per_nm2
    finally:
        microscope.close()
    assert done.returncode == 0, done.stderr
    charged = re.search(r"([\d.]+) e/nm² in all, with what the blanker", done.stderr)
    assert charged is not None
    assert float(charged[1]) == pytest.approx(world, rel=0.02)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"dose_per_series": "1 e/nm^2"}, "its limit is 1 e/nm^2"),
        ({}, "--step: 1e+09 is not within"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_the_file(
    cli: Any, limits: dict[str, str], words: str
) -> None:
    rig = cli.rig(**realistic(cli.folder))
    recipe = cli.recipe(**{**TRACKED, "beam": BEAM, "track": "none", "limits": limits}, analysis=[])
    step = () if limits else ("--step", "1e9")
    done = cli("calibrate", recipe, "--rig", rig, *step)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((cli.folder / "shift.json").read_text()) == SHIFT


def test_a_rig_without_a_beam_shift_is_refused(cli: Any) -> None:
    recipe = cli.recipe(**{**TRACKED, "beam": BEAM, "track": "none"}, analysis=[])
    done = cli("calibrate", recipe, "--rig", cli.rig())
    assert done.returncode == 2
    assert "names no shift" in done.stderr


def test_a_step_calibrates_an_unknown_column_and_the_run_goes_on_by_it(cli: Any) -> None:
    """No calibration at first; the frames show whether the new one is right."""
    rig = cli.rig(**realistic(cli.folder))
    (cli.folder / "shift.json").unlink()
    track = {"by": "model", "keep_within": "always", "scouts": "30 e/nm^2"}
    recipe = cli.recipe(**TRACKED | {"beam": SLOW, "steps": STEPS, "track": track}, analysis=[])
    done = cli("run", recipe, "--rig", rig, "-o", "run.nxs", "--simulator-log", "world.log")
    assert done.returncode == 0, done.stderr
    found = load_shift_calibration(cli.folder / "shift.json")
    np.testing.assert_allclose(found.matrix_nm, truth(), atol=0.02)
    assert (found.unit, found.voltage_kv, found.field_nm) == ("nm", 300.0, 1064.96)
    exposures, world = world_of(cli.folder / "world.log")
    assert [e["shape"] for e in exposures[:6]] == [[64, 64]] * 6, "sparse scans come first"
    frames = np.array([e["offset_nm"] for e in exposures if e["shape"] == [128, 128]])
    assert len(frames) == 11
    assert np.hypot(*frames[1:].T).max() < 50
    assert cli.inspect("run.nxs")["dose_e_per_nm2"] == pytest.approx(world, rel=0.02)
    (text,) = (text for text in said(cli.folder / "run.nxs") if "is calibrated" in text)
    assert "written to" in text


def test_check_counts_the_step_and_refuses_it_where_the_beam_is_not_shifted(cli: Any) -> None:
    recipe = cli.recipe(**TRACKED | {"steps": STEPS, "track": "none"}, analysis=[])
    rig = realistic(cli.folder)
    done = cli("check", recipe, "--rig", cli.rig(**rig), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["steps"][0]["step"] == "shifts_001: beam shift by 6 sparse scans"
    assert told["dose_of_scouts_e_per_nm2"] > 6 * 0.9
    for shift in (None, {"limit": "1.5 um"}):
        beam = {**rig["beam"], "shift": shift} if shift else {
            key: value for key, value in rig["beam"].items() if key != "shift"
        }  # fmt: skip
        done = cli("check", recipe, "--rig", cli.rig(**{**rig, "beam": beam}))
        assert done.returncode == 2
        line = Path(recipe).read_text().splitlines().index("- calibrate: shifts")
        assert f"{recipe}:{line + 1}: steps[0].calibrate: the rig" in done.stderr
