"""Rows of the catalogue: what goes wrong while the beam follows the specimen."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from microscope import Microscope
from tracked import SIMULATOR, TRACKED, offsets_nm, realistic

import pyrotome

# Near the axis: what follows is the fault's, not the height's.
STILL = {
    **SIMULATOR,
    "goniometer": {"ideal": False, "height": "200 nm", "jitter": "20 nm", "slips": "0 %",
                   "speed": "60 deg/s"},
    "chip": {"ideal": True},
}  # fmt: skip
RECIPE = {
    **TRACKED,
    "steps": [
        {"tilt_series": {"from": "-30 deg", "to": "30 deg", "step": "5 deg",
                         "order": "bidirectional"}},
    ],
    "analysis": [],
}  # fmt: skip
WHERE = ["-o", "run.nxs"]


@pytest.fixture
def microscope(cli: Any) -> Iterator[Microscope]:
    """A microscope of its own for each row, whose log lies in the folder of the commands."""
    found = Microscope(cli.folder, **{**realistic(cli.folder), "simulator": STILL})
    yield found
    found.close()


def begun(cli: Any, microscope: Microscope, frames: int, **recipe: Any) -> Any:
    """Start a run and wait until so many frames are exposed."""
    body = {**RECIPE, **recipe}
    running = cli.start("run", cli.recipe(**body), "--rig", str(microscope.write_rig()), *WHERE)
    exposed(microscope, running, frames)
    return running


def exposed(microscope: Microscope, running: Any, frames: int) -> None:
    """Wait until so many frames are exposed."""
    end_s = time.monotonic() + 120
    while len(microscope.log().of("exposure")) < frames:
        assert time.monotonic() < end_s, running.text()
        assert running.process.poll() is None, running.text()
        time.sleep(0.01)


def truly_off(microscope: Microscope) -> np.ndarray[Any, Any]:
    """How far the image was off in each exposure, in nm."""
    return np.hypot(*offsets_nm(microscope.logs[-1])[:, 1:].T)


def messages(folder: Path) -> list[str]:
    with pyrotome.open(folder / "run.nxs") as run:
        return [event.message for event in run.events]


@pytest.mark.fault(
    broken="the stage slips by 400 nm while the specimen is followed",
    must="no more than three frames are off; it is said", within_s=120,
)  # fmt: skip
def test_slip(cli: Any, microscope: Microscope, reaction: Any) -> None:
    running = begun(cli, microscope, 4)
    microscope.fault("stage:slip=400nm")
    reaction.begins()
    assert running.wait() == 0, running.text()
    reaction.ends()
    off = truly_off(microscope)
    far = np.flatnonzero(off > 200)
    assert 1 <= far.size <= 3, off.round()
    assert (off[far[-1] + 1 :] < 200).all()
    assert any("off, " in text and "% of the field" in text for text in messages(cli.folder))


@pytest.mark.fault(
    broken="the beam shift stops short of what it is sent to, silently",
    must="it is read back and said, and the run pauses before a frame", within_s=60,
)  # fmt: skip
def test_shift_clips(cli: Any, microscope: Microscope, reaction: Any) -> None:
    microscope.fault("beam:shift-clips=5nm")
    running = begun(cli, microscope, 1)
    reaction.begins()
    running.wait_for("the run pauses")
    running.wait_for("state paused")
    reaction.ends()
    frames = len(microscope.log().of("exposure"))
    assert frames <= 4
    assert "the deflectors were set to" in running.text()
    assert cli("abort", "--endpoint", running.control).returncode == 0
    assert running.wait() == 1, running.text()
    assert len(microscope.log().of("exposure")) == frames, "nothing was exposed in the pause"


@pytest.mark.fault(
    broken="the tracker is killed in a tilt series", must="it is said; the run completes",
    within_s=120,
)  # fmt: skip
def test_tracker_dies(cli: Any, microscope: Microscope, reaction: Any) -> None:
    running = begun(cli, microscope, 4)
    running.children()["pyrotome.analysis.tracking.process"].kill()
    reaction.begins()
    assert running.wait() == 0, running.text()
    reaction.ends()
    assert any("the tracker died" in text for text in messages(cli.folder))
    assert cli.inspect("run.nxs")["lost_frames"] == 0


@pytest.mark.fault(
    broken="kill -9 of the daemon in a tilt series that is followed",
    must="the resumed run knows place and model", within_s=240,
)  # fmt: skip
def test_daemon_dies(cli: Any, microscope: Microscope, reaction: Any) -> None:
    running = begun(cli, microscope, 6)
    running.process.kill()
    running.process.wait()
    reaction.begins()
    state = json.loads((cli.folder / "run.nxs.tracking").read_text())
    assert state["references"], "pictures to compare with"
    done = cli("run", "--resume", "run.nxs", timeout_s=240)
    assert done.returncode == 0, done.stderr
    reaction.ends()
    off = truly_off(microscope)
    assert len(off) >= 13
    assert (off[7:] < 250).all(), off.round()
    assert not (cli.folder / "run.nxs.tracking").exists()
