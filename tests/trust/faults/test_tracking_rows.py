"""Rows of the catalogue: what goes wrong while the beam follows the specimen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from microscope import Microscope
from tracked import SHIFT, SIMULATOR, TRACKED, offsets_nm, realistic

import pyrotome
from pyrotome.protocols.config.shift_calibration import load_shift_calibration
from pyrotome.protocols.messages.stream import parse

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
# Scans of 82 ms, so that there is a middle of them.
CALIBRATED: dict[str, Any] = {
    "steps": [{"calibrate": "shifts"}, *RECIPE["steps"]],
    "beam": {**TRACKED["beam"], "dwell": "20 us", "current": "2 pA"},
}
# What a search shows to each side, a little less.
SEARCHED_NM = 1590.0
WHERE = ["-o", "run.nxs"]
# On a busy computer a scout costs many times what it should: the dose must last all the same.
SCOUTS: dict[str, Any] = {
    "track": {"by": "model", "keep_within": "always", "scouts": "200 e/nm^2"},
    "limits": {},
}


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


def completes(cli: Any, microscope: Microscope, reaction: Any, fault: str, **recipe: Any) -> None:
    """Switch a fault on in mid-series and let the run end."""
    running = begun(cli, microscope, 6 if recipe else 4, **recipe)
    microscope.fault(fault)
    reaction.begins()
    assert running.wait() == 0, running.text()
    reaction.ends()


def pauses(
    cli: Any, microscope: Microscope, reaction: Any, fault: str, frames: int = 4, **recipe: Any
) -> tuple[Any, int]:
    """Switch a fault on after so many exposures and wait for the pause; run, and exposures."""
    running = begun(cli, microscope, frames, **recipe)
    microscope.fault(fault)
    reaction.begins()
    exposures = until_paused(cli, microscope, running)
    reaction.ends()
    return running, exposures


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
    completes(cli, microscope, reaction, "stage:slip=400nm")
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


def until_paused(cli: Any, microscope: Microscope, running: Any) -> int:
    """Wait until the run pauses, abort it, and return how many exposures there were."""
    running.wait_for("state paused")
    exposures = len(microscope.log().of("exposure"))
    time.sleep(1.0)
    assert len(microscope.log().of("exposure")) == exposures, "nothing is exposed in the pause"
    assert cli("abort", "--endpoint", running.control).returncode == 0
    assert running.wait() == 1, running.text()
    return exposures


@contextmanager
def monitored(endpoint: str) -> Iterator[Callable[[], list[bytes] | None]]:
    """Receive what the monitors are shown; gives a function for the next message."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.SUBSCRIBE, b"result")
        socket.connect(endpoint)
        time.sleep(0.2)  # until the subscription is in force
        yield lambda: socket.recv_multipart() if socket.poll(500) else None


def frames_of(microscope: Microscope) -> np.ndarray[Any, Any]:
    """Which exposures of the world were frames, and not scouts."""
    return np.array([e["shape"] == [128, 128] for e in microscope.log().of("exposure")])


@pytest.mark.fault(
    broken="the stage slips by 400 nm, and scouts look before each frame",
    must="no frame is off", within_s=120,
)  # fmt: skip
def test_slip_with_scouts(cli: Any, microscope: Microscope, reaction: Any) -> None:
    completes(cli, microscope, reaction, "stage:slip=400nm", **SCOUTS)
    off, frames = truly_off(microscope), frames_of(microscope)
    assert off[~frames].max() > 200, "a scout has seen it"
    assert off[frames][1:].max() < 60, off.round()


@pytest.mark.fault(
    broken="the stage slips by 4 um: the specimen is out of any search",
    must="search, then pause; the picture is shown; no frame is exposed", within_s=120,
)  # fmt: skip
def test_lost(cli: Any, microscope: Microscope, reaction: Any) -> None:
    running = begun(cli, microscope, 6, **SCOUTS)
    before = frames_of(microscope).sum()
    microscope.fault("stage:slip=4000nm")
    reaction.begins()
    with monitored(running.monitor) as shown:
        until_paused(cli, microscope, running)
        headers = [parse(parts).header for parts in iter(shown, None)]
    reaction.ends()
    (search,) = (header for header in headers if header.get("name") == "tracking_search")
    assert search["shape"] == [192, 192]
    assert frames_of(microscope).sum() <= before + 1, "at most the one that was under way"
    assert "the wide search did not find the specimen" in running.text()
    assert "resume or abort" in running.text()


@pytest.mark.fault(
    broken="the specimen stands at the border of the search, which does not find it",
    must="a person tells where, after one who is wrong; a scout looks there; no frame is off",
    within_s=240,
)  # fmt: skip
def test_lost_and_pointed_out(cli: Any, microscope: Microscope, reaction: Any) -> None:
    running = begun(cli, microscope, 6, **SCOUTS)
    microscope.fault("stage:slip=2100nm")
    reaction.begins()
    running.wait_for("state paused")
    frames = frames_of(microscope).sum()

    def resumed_at(place: str) -> Any:
        return cli("resume", "--at", place, "--endpoint", running.control)

    outside = resumed_at("120 nm,-3 um")
    assert outside.returncode == 2
    assert "(120, -3000) nm is outside the picture of the search at" in outside.stderr
    assert resumed_at("95.5 px,95.5 px").returncode == 0
    while running.text().count("state paused") < 2:
        assert running.process.poll() is None, running.text()
        time.sleep(0.05)
    assert frames_of(microscope).sum() == frames, "nothing is exposed until it is found"
    off_nm = np.clip(offsets_nm(microscope.logs[-1])[-1, 1:], -SEARCHED_NM, SEARCHED_NM)
    assert resumed_at(f"{off_nm[0]:.0f} nm,{off_nm[1]:.0f} nm").returncode == 0
    assert running.wait() == 0, running.text()
    reaction.ends()
    off, are_frames, said = truly_off(microscope), frames_of(microscope), messages(cli.folder)
    assert off[~are_frames].max() > 2000, "a scout has seen it"
    assert off[are_frames][1:].max() < 60, (off.round(), said)
    assert sum("'local' says: the specimen stands at" in text for text in said) == 2
    assert any("stands at (0, 0) nm (y, x) in the picture of the search" in text for text in said)


@pytest.mark.fault(
    broken="kill -9 of the daemon while the beam shift is calibrated for the first time",
    must="the resumed run calibrates again, from where the deflectors stood", within_s=240,
)  # fmt: skip
def test_daemon_dies_in_a_calibration(cli: Any, microscope: Microscope, reaction: Any) -> None:
    (cli.folder / "shift.json").unlink()
    running = begun(cli, microscope, 3, **SCOUTS | CALIBRATED)
    running.process.kill()
    running.process.wait()
    reaction.begins()
    assert not (cli.folder / "shift.json").exists()
    done = cli("run", "--resume", "run.nxs", timeout_s=240)
    assert done.returncode == 0, done.stderr
    reaction.ends()
    assert load_shift_calibration(cli.folder / "shift.json").zero == pytest.approx((0, 0), abs=0.1)
    charged = cli.inspect("run.nxs")["dose_e_per_nm2"]
    assert charged == pytest.approx(microscope.log().fluence_e_per_nm2, rel=0.05)
    sparse = (~frames_of(microscope)).tolist()
    assert 9 <= sparse.index(False) <= 11, "three or more scans before the kill, and six after"
    off = truly_off(microscope)[frames_of(microscope)]
    assert len(off) == 13
    assert off[1:].max() < 60, off.round()


@pytest.mark.fault(
    broken="the deflectors stop short, silently, while the beam shift is calibrated",
    must="it is said; the calibration that is there stays; nothing is exposed", within_s=60,
)  # fmt: skip
def test_shift_clips_in_a_calibration(cli: Any, microscope: Microscope, reaction: Any) -> None:
    microscope.fault("beam:shift-clips=5nm")
    changes = CALIBRATED | {"steps": [{"calibrate": "shifts"}], "track": "none"}
    recipe, rig = cli.recipe(**{**RECIPE, **changes}), str(microscope.write_rig())
    reaction.begins()
    done = cli("run", recipe, "--rig", rig, *WHERE)
    reaction.ends()
    assert done.returncode == 0, done.stderr
    assert "the deflectors were set to" in done.stderr
    assert "stays as it is" in done.stderr
    assert json.loads((cli.folder / "shift.json").read_text()) == SHIFT
    assert len(microscope.log().of("exposure")) == 1, "the one at zero, and no further one"


@pytest.mark.parametrize("recipe", [{}, "scouts"], ids=["frames alone", "scouts"])
@pytest.mark.fault(
    broken="the beam shift moves the image to the other side",
    must="nothing more is corrected; pause", within_s=120,
)  # fmt: skip
def test_shift_inverted(cli: Any, microscope: Microscope, reaction: Any, recipe: Any) -> None:
    scouts = SCOUTS if recipe else {}
    running, _ = pauses(cli, microscope, reaction, "beam:shift-inverted", **scouts)
    off = truly_off(microscope)[frames_of(microscope)]
    assert (off[4:] > 250).sum() <= 3, off.round()
    assert "makes it worse" in running.text() or "calibrate the shifts" in running.text()


@pytest.mark.fault(
    broken="the beam shift returns to zero by itself after 0.2 s",
    must="it is read back and said, and the run pauses", within_s=120,
)  # fmt: skip
def test_shift_forgets(cli: Any, microscope: Microscope, reaction: Any) -> None:
    beam = TRACKED["beam"] | {"dwell": "30 us", "current": "1.3 pA"}
    running, exposures = pauses(cli, microscope, reaction, "beam:shift-forgets", beam=beam)
    assert exposures <= 4 + 4
    assert "the beam shift was set to" in running.text()


@pytest.mark.parametrize("fault", ["detector:blank-frame", "detector:same-frame"])
@pytest.mark.fault(
    broken="the detector sends empty frames, or the same frame again and again",
    must="it is said of each; after three of them the run pauses", within_s=120,
)  # fmt: skip
def test_frames_that_show_nothing(
    cli: Any, microscope: Microscope, reaction: Any, fault: str
) -> None:
    running, exposures = pauses(cli, microscope, reaction, fault)
    assert exposures <= 4 + 4
    assert running.text().count("the frame cannot be used for tracking") == 3
    assert "3 frames in a row do not show the specimen" in running.text()


@pytest.mark.fault(
    broken="the focus of the column jumps by 3 um at 5 mrad",
    must="it is told within three frames; a focus series takes it out", within_s=240,
)  # fmt: skip
def test_focus_jumps(cli: Any, reaction: Any) -> None:
    sharp = {**STILL, "column": {"ideal": False, "convergence": "5 mrad"}}
    rig = realistic(cli.folder)
    rig["beam"]["focus"]["convergence"] = "5 mrad"
    microscope = Microscope(cli.folder, **{**rig, "simulator": sharp})
    beam = TRACKED["beam"] | {"frame": [256, 256], "pixel_size": "4.16 nm"}
    try:
        running = begun(
            cli, microscope, 5, beam=beam, focus={"dose": "200 e/nm^2"},
            limits={"dose": "5000 e/nm^2"},
        )  # fmt: skip
        microscope.fault("beam:focus-jumps=3um")
        reaction.begins()
        assert running.wait() == 0, running.text()
        reaction.ends()
        frames = [e for e in microscope.log().of("exposure") if e["shape"] == [256, 256]]
        away = np.abs([e["defocus_nm"] for e in frames])
        far = np.flatnonzero(away > 2000)
        assert 1 <= far.size <= 3, away.round()
        assert (away[far[-1] + 1 :] < 1000).all(), away.round()
        told = next(text for text in messages(cli.folder) if "the focus has jumped" in text)
        assert "blurred by" in told
        assert "a focus series follows" in told
        assert any("in focus at" in text for text in messages(cli.folder))
    finally:
        microscope.close()


@pytest.mark.fault(
    broken="another specimen of the same kind comes into the field",
    must="it is not followed: the run pauses, or goes on without correcting", within_s=120,
)  # fmt: skip
def test_decoy(cli: Any, microscope: Microscope, reaction: Any) -> None:
    running, _ = pauses(cli, microscope, reaction, "stage:decoy=300nm", 6, **SCOUTS)
    assert "did not show the specimen" in running.text()


@pytest.mark.parametrize("fault", ["heater:bulge-jumps=1um", "stage:drift-fast=50nm/s"])
@pytest.mark.fault(
    broken="the membrane jumps by 1 um, or the specimen drifts by 50 nm/s",
    must="scouts keep the frames, but for one that is under way", within_s=240,
)  # fmt: skip
def test_specimen_moves(cli: Any, microscope: Microscope, reaction: Any, fault: str) -> None:
    completes(cli, microscope, reaction, fault, **SCOUTS)
    off = truly_off(microscope)[frames_of(microscope)]
    assert (off[1:] > 60).sum() <= 1, off.round()


@pytest.mark.fault(
    broken="the tracker is stopped: it answers neither frames nor scouts",
    must="two scouts wait for it; the series goes on by the newest table", within_s=120,
)  # fmt: skip
def test_tracker_is_late(cli: Any, microscope: Microscope, reaction: Any) -> None:
    running = begun(cli, microscope, 6, **SCOUTS)
    tracker = running.children()["pyrotome.analysis.tracking.process"]
    tracker.suspend()
    reaction.begins()
    try:
        exposed(microscope, running, 14)
        reaction.ends()
    finally:
        tracker.resume()
    assert running.wait() == 0, running.text()
    assert "2 scouts had no answer" in running.text()
    assert cli.inspect("run.nxs")["lost_frames"] == 0


@pytest.mark.parametrize("fault", ["stage:z-sticks", "stage:xy-ignored"])
@pytest.mark.fault(
    broken="the stage does not carry out a move of z, or of x and y, and reads back as if it had",
    must="the frames show it; the run goes on in the frame, or it pauses", within_s=240,
)  # fmt: skip
def test_stage_does_not_move(cli: Any, reaction: Any, fault: str) -> None:
    high = {**STILL, "goniometer": {**STILL["goniometer"], "height": "2.5 um"}}
    microscope = Microscope(cli.folder, **{**realistic(cli.folder), "simulator": high})
    try:
        microscope.fault(fault)
        wide = {"from": "-48 deg", "to": "48 deg", "step": "4 deg", "order": "bidirectional"}
        running = begun(cli, microscope, 1, **SCOUTS, steps=[{"tilt_series": wide}])
        reaction.begins()
        while running.process.poll() is None:
            if "state paused" in running.text():
                assert cli("abort", "--endpoint", running.control).returncode == 0
                running.wait()
            time.sleep(0.02)
        reaction.ends()
        off = truly_off(microscope)[frames_of(microscope)]
        assert (off[1:] > 250).sum() <= 3, off.round()
        if fault == "stage:z-sticks":
            assert "its z does not move as it says" in running.text()
    finally:
        microscope.close()
