"""The step `calibrate: pixel` through the wires, on a crystal whose scan the column distorts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from command_line import RIG

import pyrotome
from pyrotome.protocols.config.scanning.pixel_calibration import load_pixel_calibration

COILS = np.array([[1.012, 0.004], [0.010, 0.991]])
BEAM = {
    "voltage": "300 kV", "current": "30 pA", "dwell": "3 us", "frame": [160, 160],
    "pixel_size": "0.358 A",
}  # fmt: skip


def test_a_distorted_scan_is_measured_and_where_it_does_not_hold_is_told(cli: Any) -> None:
    simulator = {
        "specimen": {"kind": "si-110", "turn": "17 deg", "side": "9 nm", "thickness": "4 nm"},
        "goniometer": {"eucentric_error_nm": 0.0, "drift_nm": 0.0},
        "column": {"rolling": True, "scan_jitter": "2 pm", "scan_matrix": COILS.tolist()},
    }
    beam = {**RIG["beam"], "scan_rotation": "5 deg", "pixel_calibration_file": "pixel.json"}
    rig = cli.rig(simulator=simulator, beam=beam)
    recipe = cli.recipe(steps=[{"calibrate": "pixel"}], beam=BEAM, limits={}, analysis=[])
    done = cli("run", recipe, "--rig", rig, "-o", "out.nxs", "--simulator-log", "world.log")
    assert done.returncode == 0, done.stderr
    with pyrotome.open(cli.folder / "out.nxs") as run:
        said = [event.message for event in run.events]
    assert any(text.startswith("pixel_001: a pixel is 0.35") for text in said)
    assert "pixel_001: the scan is distorted" in done.stderr
    found = load_pixel_calibration(cli.folder / "pixel.json")
    values, axes = np.linalg.eigh(COILS.T @ COILS)
    true = 0.0358 * (axes * np.sqrt(values)) @ axes.T
    sd = np.sqrt(np.diag(found.covariance_nm2)).reshape(2, 2)
    assert (np.abs(found.matrix_nm - true) < 5 * sd).all()
    assert sd.max() < 1e-3 * 0.0358
    lines = [json.loads(line) for line in (cli.folder / "world.log").read_text().splitlines()]
    turns = [line["rotation_deg"] for line in lines if line["event"] == "optics"]
    assert turns[-1] == 5.0, "the scan is turned back"
    assert sum(line["event"] == "exposure" for line in lines) == 32
    other = cli.recipe(beam=BEAM | {"pixel_size": "0.4 A"}, limits={}, analysis=[])
    told = cli("check", other, "--rig", rig)
    assert "does not hold: it was measured with a field of 5.728 nm" in " ".join(
        told.stdout.split()
    )
