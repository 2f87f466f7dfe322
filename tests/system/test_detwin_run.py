"""A tilt series on a column of somebody else, over its own wire: kept in the frame on de-twin.

Engine, recorder, tracker and `pyrotome calibrate` are ours and unchanged; stage, image shift,
pictures and the truth about them are de-twin's. The heater is simulated.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyrotome

pytest.importorskip("de_twin", reason="de-twin is not installed (extra 'interop')")

SUPPORT = Path(__file__).resolve().parents[1] / "support"
SIDE, HEIGHT_UM, STEEP_DEG = 256, 2.0, 30.0
# Without tracking, fewer angles show where it goes.
STEP_DEG = {"none": 15, "model": 5}


@dataclass(frozen=True)
class Twin:
    """A running de-twin: what it said of itself, and its log of frames."""

    said: dict[str, Any]
    log: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.said['soap']}"

    def offsets_nm(self) -> np.ndarray[Any, Any]:
        """Tilt, and how far (y, x) the specimen of the first frame was off, for each frame."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return np.array([(line["tilt_deg"], *line["offset_nm"]) for line in lines])


@contextlib.contextmanager
def running_twin(folder: Path, name: str) -> Iterator[Twin]:
    """De-twin with the errors of a real column."""
    log = folder / f"{name}.jsonl"
    with (folder / f"{name}.log").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "detwin_microscope.py"), str(log)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            said = next(line for line in process.stdout if line.startswith("up "))
            yield Twin(json.loads(said.removeprefix("up ")), log)
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def rig_of(
    cli: Any, commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Makes the rig of a de-twin, whose drivers are installed as a package of its own would be."""
    drivers = pytest.importorskip("detwin_drivers")
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("PYTHONPATH", drivers.plugin(site))
    rig = commands.RIG

    def make(twin: Twin) -> str:
        camera = f"http://127.0.0.1:{twin.said['frames']}"
        shift = {"calibration_file": "shift.json", "limit": "1.5 um", "settle": "0 ms"}
        limits = {"tilt": ["-60 deg", "60 deg"], "speed": "10 deg/s", "settle": "0 s"}
        return cli.rig(
            stage={"driver": "detwin-stage", "endpoint": twin.endpoint, "limits": limits},
            beam={"driver": "detwin-beam", "endpoint": twin.endpoint, "shift": shift},
            detector={"driver": "detwin-camera", "endpoint": camera},
            heater=rig["heater"], simulator={},
        )  # fmt: skip

    yield make


def recipe_of(cli: Any, twin: Twin, track: str = "none") -> str:
    beam = {
        "voltage": f"{twin.said['voltage_kv']} kV", "current": "2 pA", "dwell": "1 us",
        "frame": [SIDE, SIDE], "pixel_size": f"{twin.said['pixel_nm']} nm",
    }  # fmt: skip
    series = {
        "from": f"-{STEEP_DEG} deg", "to": f"{STEEP_DEG} deg", "step": f"{STEP_DEG[track]} deg",
        "order": "bidirectional",
    }  # fmt: skip
    steps = [{"heat": {"to": "100 degC", "rate": "300 degC/s"}}, {"tilt_series": series}]
    return cli.recipe(
        beam=beam, limits={}, steps=steps, analysis=[], focus="none",
        track={"by": track, "scouts": "none"},
    )  # fmt: skip


@pytest.mark.interop
@pytest.mark.timeout(600)
def test_a_tilt_series_is_kept_in_the_frame(
    cli: Any, rig_of: Any, pictures: Any, tmp_path: Path
) -> None:
    field_nm = 0.0
    worst: dict[str, Any] = {}
    for name in ("none", "model"):
        with running_twin(tmp_path, name) as twin:
            rig = rig_of(twin)
            field_nm = SIDE * twin.said["pixel_nm"]
            if name == "none":
                check_calibration(cli, recipe_of(cli, twin), rig, twin)
                twin.log.unlink()
            soap = pictures.Soap(twin.said["soap"])
            soap.move(z=soap.stage()["z"] + HEIGHT_UM)
            done = cli("run", recipe_of(cli, twin, name), "--rig", rig, "-o", f"{name}.nxs")
            assert done.returncode == 0, done.stderr
            worst[name] = twin.offsets_nm()
    still, followed = worst["none"], worst["model"]
    assert (len(still), len(followed)) == (5, 13)
    expected_nm = 1e3 * HEIGHT_UM * np.sin(np.radians(still[:, 0]))
    np.testing.assert_allclose(np.abs(still[:, 2]), np.abs(expected_nm), atol=5)
    lost_nm = 0.3 * field_nm
    assert np.abs(still[:, 2]).max() > 0.6 * field_nm, "without tracking it leaves"
    assert np.abs(followed[:, 1:]).max() < lost_nm, "with it it stays"
    report(cli, still, followed, field_nm)


def check_calibration(cli: Any, recipe: str, rig: str, twin: Twin) -> None:
    """What `pyrotome calibrate` finds, against what de-twin says of itself."""
    done = cli("calibrate", recipe, "--rig", rig)
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads((cli.folder / "shift.json").read_text())["matrix_nm"])
    truth = np.array(twin.said["shift_matrix"])
    error = np.abs(found - truth).max() / np.linalg.norm(truth, 2)
    print(f"calibrate: largest error of an element {100 * error:.2f} % of the shift")
    assert error < 0.02


def report(cli: Any, still: Any, followed: Any, field_nm: float) -> None:
    """Print the figures, and compare what was measured with the truth."""
    with pyrotome.open(cli.folder / "model.nxs") as run:
        told = run.series[1].tracking
        tilt_deg = run.series[1].tilt_deg
    assert told is not None
    measured = told.offset_measured_nm
    known = np.isfinite(measured).all(axis=1)
    away = measured[known] - followed[known][:, 1:]
    for name, offsets in (("still", still), ("followed", followed)):
        rms, largest = np.sqrt(np.mean(offsets[:, 1:] ** 2, axis=0)), np.abs(offsets[:, 1:]).max(0)
        print(f"{name}: rms {rms.round(1)}, largest {largest.round(1)} nm of {field_nm:.0f} (y, x)")
    print(f"measured - true: {np.sqrt(np.mean(away**2, axis=0)).round(1)} nm rms of {known.sum()}")
    assert np.abs(tilt_deg).max() == pytest.approx(STEEP_DEG, abs=0.1)
    assert known.sum() >= 11
    assert np.median(np.abs(away)) < 10
