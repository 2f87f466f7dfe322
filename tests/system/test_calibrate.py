"""``pyrotome calibrate`` on a column whose shift is turned and scaled."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tracked import SHIFT, SIMULATOR, TRACKED, realistic

from pyrotome.protocols.config.shift_calibration import load_shift_calibration
from pyrotome.protocols.config.simulated import SimulatedColumn

BEAM = {**TRACKED["beam"], "frame": [256, 256], "pixel_size": "4.16 nm"}


def test_the_matrix_is_found_and_written(cli: Any) -> None:
    changes = realistic(cli.folder)
    (cli.folder / "shift.json").unlink()
    simulator = {**SIMULATOR, "goniometer": {"ideal": True}, "chip": {"ideal": True}}
    rig = cli.rig(**{**changes, "simulator": simulator})
    recipe = cli.recipe(**{**TRACKED, "beam": BEAM, "track": "none", "limits": {}}, analysis=[])
    done = cli("calibrate", recipe, "--rig", rig)
    assert done.returncode == 0, done.stderr
    found = load_shift_calibration(cli.folder / "shift.json")
    # The scan is turned, and with it the axes of the image.
    turn = np.radians(1.5)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    truth = turned @ np.array(SimulatedColumn.REALISTIC["shift_matrix"])
    np.testing.assert_allclose(found.matrix_nm, truth, atol=0.02)
    sd = np.sqrt(np.diag(found.covariance_nm2)).reshape(2, 2)
    assert (np.abs(np.array(found.matrix_nm) - truth) < 5 * sd).all()
    assert (found.unit, found.voltage_kv, found.scan_rotation_deg) == ("nm", 300.0, 1.5)
    assert "e/nm²" in done.stderr


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
