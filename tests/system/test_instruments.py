"""Whole runs with other instruments: pixel types, bursts, chunks, regulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (lets h5py read compressed frames)
import numpy as np
import pytest
import yaml
from dectris.compression import decompress

# 64 x 64 pixels at 100 ns: 0.41 ms a frame, so that one trigger starts many.
BEAM = {"dwell": "100 ns", "current": "20 pA"}
STEPS: list[dict[str, Any]] = [
    {"heat": {"to": "100 degC", "rate": "300 degC/s"}},
    {"reference": {"frames": 60}},
    {"tilt_series": {"from": "-4 deg", "to": "4 deg", "step": "4 deg", "frames_per_tilt": 5}},
]
DATA = {"data_endpoint": "tcp://127.0.0.1:0"}
DETECTORS: dict[str, dict[str, Any]] = {
    "merlin of 24 bits": {
        "driver": "merlin", "endpoint": "tcp://127.0.0.1:0", "options": {**DATA, "depth": 24},
    },
    "merlin of 6 bits and 4 chips": {
        "driver": "merlin", "endpoint": "tcp://127.0.0.1:0",
        "options": {**DATA, "depth": 6, "chips": 4},
    },
    "simplon, legacy": {
        "driver": "dectris-simplon", "endpoint": "http://127.0.0.1:0", "options": DATA,
    },
    "simplon, cbor, 32 bits": {
        "driver": "dectris-simplon", "endpoint": "http://127.0.0.1:0",
        "options": {**DATA, "stream_format": "cbor", "bit_depth": 32},
    },
    "simplon, lz4": {
        "driver": "dectris-simplon", "endpoint": "http://127.0.0.1:0",
        "options": {**DATA, "compression": "lz4"},
    },
}  # fmt: skip


def recipe_and_rig(cli: Any, steps: list[dict[str, Any]], **roles: Any) -> tuple[str, str]:
    """Paths of a recipe, and of the usual rig with other instruments in some roles."""
    beam = yaml.safe_load(Path(cli.recipe()).read_text())["beam"] | BEAM
    return cli.recipe(steps=steps, beam=beam, analysis=[]), cli.rig(**roles)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_fills_the_file(cli: Any, name: str) -> None:
    detector = DETECTORS[name]
    recipe, rig = recipe_and_rig(cli, STEPS, detector=detector)
    done = cli("run", recipe, "--rig", rig, "-o", "out.nxs")
    assert done.returncode == 0, done.stderr
    found = cli.inspect("out.nxs")
    assert (found["frames"], found["lost_frames"]) == (75, 0)
    options = detector["options"]
    bits = options.get("depth") or options.get("bit_depth", 16)
    expected = {6: "uint8", 16: "uint16", 24: "uint32", 32: "uint32"}[bits]
    with h5py.File(cli.folder / "out.nxs") as file:
        for stack in ("reference_001", "series_001"):
            data = file[f"{stack}/instrument/detector/data"]
            assert data.dtype == np.dtype(expected)
            frames = data[()]
            assert (frames.reshape(len(frames), -1).sum(1) > 0).all(), "the beam was on"
            numbers = file[f"{stack}/frames/frame_number"][()]
            assert numbers.tolist() == list(range(1, len(frames) + 1))
            assert (np.diff(file[f"{stack}/frames/time"][()]) > 0).all()
        # One look at the beam for each trigger: that is how many there were.
        blanked = file["entry/telemetry/beam/blanked/value"][()]
        assert len(blanked) < 75 / 3
        tilts = file["series_001/sample/rotation_angle"][()]
        assert tilts == pytest.approx(np.repeat([-4.0, 0.0, 4.0], 5), abs=0.1)
        if detector["driver"] == "dectris-simplon":
            raw = data.id.read_direct_chunk((3, 0, 0))[1]
            back = decompress(raw, "bslz4", elem_size=np.dtype(expected).itemsize)
            assert back == frames[3].tobytes()


def test_a_regulated_chip_holds_as_long_as_requested(cli: Any, request: Any) -> None:
    examples = request.config.rootpath / "examples"
    heater = {
        "driver": "keithley-2450",
        "endpoint": "tcp://127.0.0.1:0",
        "options": {"calibration_file": str(examples / "rigs" / "chip_calibration.json")},
    }
    steps = [
        {"heat": {"to": "200 degC"}},
        {
            "cycle": {
                "standby": "200 degC",
                "processing": "350 degC",
                "holds": ["1 s", "1 s"],
                "then": [{"reference": {"frames": 2}}],
            }
        },
    ]
    recipe, rig = recipe_and_rig(cli, steps, heater=heater)
    done = cli("run", recipe, "--rig", rig, "-o", "out.nxs")
    assert done.returncode == 0, done.stderr
    found = json.loads(cli("inspect", "out.nxs", "--json").stdout)
    assert [hold["achieved_s"] for hold in found["holds"]] == pytest.approx([1, 1], abs=0.2)
    for hold in found["holds"]:
        assert hold["median_c"] == pytest.approx(350, abs=2)
        assert hold["max_c"] < 365
