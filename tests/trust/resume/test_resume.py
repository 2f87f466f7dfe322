"""`pyrotome run --resume`: a run killed at any time completes the schedule it began with."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from pyrotome.daemon.cli.app import app
from pyrotome.daemon.resume import run_journal as journal_module
from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.daemon.service.startup import running_daemon
from pyrotome.daemon.streaming.telemetry_hub import PublishedEvent
from pyrotome.protocols.config.recipe import load_recipe
from pyrotome.protocols.config.rig import load_rig
from pyrotome.protocols.core.errors import BadInput

SERIES = {"tilt_series": {"from": "-20 deg", "to": "20 deg", "step": "10 deg"}}
STEPS: list[dict[str, Any]] = [
    {"heat": {"to": "200 degC", "rate": "300 degC/s", "hold": "2 s"}},
    {"reference": {"frames": 12}},
    {
        "cycle": {
            "standby": "200 degC",
            "processing": "350 degC",
            "holds": ["2 s", "1 s"],
            "then": [SERIES],
        }
    },
    {"heat": {"to": "150 degC"}},
    {"tilt_series": {"from": "-30 deg", "to": "30 deg", "step": "30 deg"}},
]
# A computer that is shared may stand still for longer than the guardian would allow by itself.
PATIENT: dict[str, Any] = {"guardian": {"timeout": "30 s"}}
FRAMES = 12 + 5 + 5 + 3
PER_FRAME = 2e-12 * 10e-6 / (1.602176634e-19 * 16**2)
# Steps as they are told.
HEAT, HOLD_2 = 0, 4


def journal(folder: Path) -> list[dict[str, Any]]:
    """The lines of the journal so far."""
    path = folder / "run.nxs.journal"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


class Run:
    """A run in a folder, in as many parts as it takes."""

    def __init__(self, cli: Any, analysis: Sequence[dict[str, Any]] = ()) -> None:
        self.cli, self.parts = cli, 0
        recipe = cli.recipe(steps=STEPS, analysis=list(analysis))
        self.first = ("run", recipe, "--rig", cli.rig(**PATIENT))

    def start(self) -> Any:
        """Begin, or go on."""
        log = ("--simulator-log", f"world-{self.parts}.log")
        first = (*self.first, "-o", "run.nxs")
        arguments = ("run", "--resume", "run.nxs") if self.parts else first
        self.parts += 1
        return self.cli.start(*arguments, *log)

    def until(self, running: Any, reached: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Wait until the journal of this part says something."""
        end = time.monotonic() + 90
        while True:
            lines = journal(self.cli.folder)
            begun = [n for n, line in enumerate(lines) if line["kind"] == "run"]
            if len(begun) == self.parts and reached(lines[begun[-1] :]):
                return
            assert running.process.poll() is None, f"ended: {running.text()}"
            assert time.monotonic() < end, f"did not come: {running.text()}"
            time.sleep(0.01)

    def finish(self, interruptions: int) -> dict[str, Any]:
        """Go on to the end, and compare with what an uninterrupted run would have left."""
        running = self.start()
        assert running.wait() == 0, running.text()
        found = self.cli.inspect("run.nxs")
        assert (found["status"], found["frames"]) == ("complete", FRAMES)
        assert found["lost_frames"] == 0
        tilts = [[-20, -10, 0, 10, 20], [-20, -10, 0, 10, 20], [-30, 0, 30]]
        assert [s["name"] for s in found["series"]] == ["series_001", "series_002", "series_003"]
        for series, asked, standby_c in zip(found["series"], tilts, (200, 200, 150), strict=True):
            assert series["tilt_deg"] == pytest.approx(asked, abs=0.05)
            assert series["frames"] == len(asked)
            assert series["temperature_mean_c"] == pytest.approx(standby_c, abs=3)
        for hold, asked_s in zip(found["holds"], (2.0, 1.0), strict=True):
            # Longer only by what a busy computer is late.
            assert asked_s - 0.1 <= hold["achieved_s"] <= asked_s + 0.5
        assert found["dose_e_per_nm2"] >= FRAMES * PER_FRAME * (1 - 1e-9)
        with h5py.File(self.cli.folder / "run.nxs") as file:
            time_s = file["entry/telemetry/heater/temperature_c/time"][()]
            assert (np.diff(time_s) > 0).all()
            for name, frames in (("reference_001", 12), ("series_001", 5)):
                data = file[f"{name}/instrument/detector/data"][()]
                assert data.shape[0] == frames
                assert (data.reshape(frames, -1).sum(1) > 0).all()
            assert len(file["entry/interruptions/from_ns"]) == interruptions
        assert not (self.cli.folder / "run.nxs.journal").exists(), "it has served"
        return found

    def true_dose(self) -> float:
        """What the simulated worlds say that the specimen has received."""
        logs = [self.cli.folder / f"world-{n}.log" for n in range(self.parts)]
        events = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        return sum(e["dose_e_per_nm2"] for e in events if e["event"] == "exposure")


def begun(lines: list[dict[str, Any]], step: int) -> bool:
    return any(line["kind"] == "begun" and line["index"] == step for line in lines)


def moment(lines: list[dict[str, Any]], what: str) -> bool:
    return any(line["kind"] == "moment" and line["what"] == what for line in lines)


def exposures(lines: list[dict[str, Any]], stack: str) -> int:
    return sum(line["kind"] == "exposed" and line["stack"] == stack for line in lines)


def kill(running: Any, module: str = "") -> None:
    """Kill -9 of the daemon, or of a process of its.

    What the daemon leaves behind is still making things safe then: resuming waits for it.
    """
    if not module:
        running.process.kill()
        running.process.wait()
    else:
        running.children()[module].kill()


# Six starts of everything, on whatever computer.
@pytest.mark.timeout(600)
def test_a_daemon_killed_repeatedly_completes_its_schedule(cli: Any) -> None:
    run = Run(cli)
    running = run.start()
    run.until(running, lambda lines: moment(lines, "reached"))
    time.sleep(0.7)
    kill(running)  # in the hold of the heat
    running = run.start()
    run.until(running, lambda lines: exposures(lines, "reference_001") >= 1)
    reached = [line for line in journal(cli.folder) if line["kind"] == "moment"]
    assert [line["what"] for line in reached] == ["reached", "reached"]
    ended = next(
        line["t_ns"] for line in journal(cli.folder)
        if line["kind"] == "ended" and line["index"] == HEAT
    )  # fmt: skip
    carried = next(line["carried"] for line in journal(cli.folder) if line.get("resumed") == 1)
    held_s = (ended - reached[1]["at_ns"]) * 1e-9
    assert carried["done_s"] > 0.5, "what was held before the kill"
    assert held_s == pytest.approx(2.0 - carried["done_s"], abs=0.5), "is not held again"
    kill(running)  # in the reference
    running = run.start()
    run.until(running, lambda lines: moment(lines, "crossed_up"))
    time.sleep(0.8)
    kill(running)  # at processing temperature
    running = run.start()
    assert json.loads(cli("status", "--json", "--endpoint", running.control).stdout)["resumed"] == 3
    run.until(running, lambda lines: exposures(lines, "series_001") >= 2)
    kill(running)  # in the middle of a series
    running = run.start()
    run.until(running, lambda lines: begun(lines, HOLD_2))
    kill(running)  # between two steps
    found = run.finish(interruptions=5)
    # Each kill may have cut off one trigger; nothing else is charged that was not exposed.
    assert found["dose_e_per_nm2"] >= run.true_dose() * 0.98
    triggers = 12 * PER_FRAME + 5 * PER_FRAME
    assert found["dose_e_per_nm2"] <= run.true_dose() * 1.02 + triggers


@pytest.mark.timeout(600)
def test_a_run_resumes_after_ctrl_c_and_after_the_death_of_any_process(cli: Any) -> None:
    run = Run(cli, [{"reconstruct": {"method": "sirt", "iterations": 3, "binning": 2}}])
    running = run.start()
    run.until(running, lambda lines: moment(lines, "crossed_up"))
    time.sleep(0.5)
    running.interrupt()
    assert running.wait() == 130
    assert cli.inspect("run.nxs")["status"] == "aborted"
    assert "resume with pyrotome run --resume" in running.text()
    running = run.start()
    assert "interrupted at the keyboard" in running.wait_for("resumed after")
    run.until(running, lambda lines: exposures(lines, "series_001") >= 2)
    kill(running, "pyrotome.daemon.recording.recorder")
    assert running.wait() == 1
    running = run.start()
    run.until(running, lambda lines: exposures(lines, "series_002") >= 2)
    kill(running, "pyrotome.simulators")
    assert running.wait() == 3
    found = run.finish(interruptions=3)
    # The analysis began anew each time, with what was in the file.
    for series in found["series"]:
        assert set(series["results"]) == {
            "volume", "slice_x", "slice_y", "slice_z", "mask", "outliers",
        }  # fmt: skip
    with h5py.File(cli.folder / "run.nxs") as file:
        for series in ("series_001", "series_002", "series_003"):
            volume = file[f"{series}/process_001/volume/data"][()]
            assert np.isfinite(volume).all()
            assert volume.any()


async def test_the_schedule_waits_at_standby_until_the_disk_accepts_data(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, rig_text = load_rig(Path(cli.rig(**PATIENT)))
    recipe, recipe_text = load_recipe(Path(cli.recipe(steps=STEPS[:2], analysis=[])))
    file = cli.folder / "run.nxs"
    full = False
    write = os.write

    def refusing(descriptor: int, data: bytes) -> int:
        if full and Path(f"/proc/self/fd/{descriptor}").resolve().suffix == ".journal":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(journal_module.os, "write", refusing)
    events: list[str] = []

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.01)

    async with running_daemon(rig, rig_text) as daemon:
        daemon.bus.subscribe(PublishedEvent, lambda event: events.append(event.header["message"]))
        progress = daemon.start(make_plan(recipe, rig), recipe_text, file).engine.progress
        await until(lambda: "reference_001: 12 frames" in events)
        full = True
        await until(lambda: any("journal cannot be written: No space" in e for e in events))
        done = progress.frames_done
        assert done < 12
        await asyncio.sleep(1.2)
        assert progress.frames_done <= done + 6, "what was exposed comes in, no more"
        done = progress.frames_done
        full = False
        await until(lambda: any("journal can be written again" in e for e in events))
        assert progress.frames_done == done
        assert (await daemon.wait()).status == "complete"
    assert cli.inspect("run.nxs")["frames"] == 12


RAMP: list[dict[str, Any]] = [
    {"heat": {"to": "100 degC", "rate": "300 degC/s"}},
    {"ramp": {"to": "160 degC", "rate": "10 degC/s", "frame_every": "0.5 s"}},
]


def test_a_ramp_resumes_where_it_was_interrupted(cli: Any) -> None:
    recipe = cli.recipe(steps=RAMP, analysis=[])
    running = cli.start("run", recipe, "--rig", cli.rig(**PATIENT), "-o", "run.nxs")
    end = time.monotonic() + 60
    while exposures(journal(cli.folder), "ramp_001") < 5:
        assert time.monotonic() < end, running.text()
        time.sleep(0.01)
    kill(running)
    done = cli("run", recipe, "--resume", "-o", "run.nxs")
    assert done.returncode == 0, done.stderr
    assert "continues with ramp to 160" in done.stderr
    with h5py.File(cli.folder / "run.nxs") as file:
        temperature = file["ramp_001/sample/temperature"][()]
        assert (file["ramp_001/instrument/detector/image_key"][()] == 0).all()
    assert temperature == pytest.approx(100 + np.arange(13) * 5, abs=4.5)


@pytest.fixture(scope="module")
def interrupted(commands: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a run that was stopped early, at ten times the speed."""
    cli = commands.Cli(tmp_path_factory.mktemp("interrupted"))
    recipe = cli.recipe(steps=STEPS, analysis=[])
    running = cli.start(
        "run", recipe, "--rig", cli.rig(**PATIENT), "-o", "run.nxs", "--speed", "10"
    )
    running.wait_for("step 3 of")
    running.interrupt()
    assert running.wait() == 130
    cli.first_recipe = recipe
    yield cli
    cli.close()


def refused(cli: Any, *arguments: str) -> str:
    """What a command line that is refused says."""
    before = {path.name: path.stat().st_mtime_ns for path in cli.folder.glob("*.nxs")}
    with contextlib.chdir(cli.folder), pytest.raises(BadInput) as error:
        app(args=["run", "--resume", *arguments], standalone_mode=False)
    after = {path.name: path.stat().st_mtime_ns for path in cli.folder.glob("*.nxs")}
    assert before == after, "nothing is touched"
    return str(error.value)


def test_a_file_that_cannot_be_resumed_says_why(interrupted: Any) -> None:
    cli = interrupted
    assert "no such file" in refused(cli, "nothing.nxs")
    assert "is not a run file; name the file of the interrupted run" in refused(
        cli, cli.first_recipe
    )
    assert "continues in its own file" in refused(cli, "run.nxs", "-o", "other.nxs")
    other = cli.recipe(steps=STEPS[:2], analysis=[])
    told = refused(cli, other, "-o", "run.nxs")
    assert "differs from the recipe in" in told
    assert f"{other}:" in told
    rig = cli.rig(name="another microscope", **PATIENT)
    assert "is 'another microscope'" in refused(cli, "run.nxs", "--rig", rig)
    text = cli.folder / "text.nxs"
    text.write_text("no HDF5")
    assert "is not a run file" in refused(cli, cli.first_recipe, "-o", "text.nxs")
    done = cli("run", "run.nxs")
    assert done.returncode == 2
    assert "to resume its run, add --resume" in done.stderr


def test_a_run_without_its_journal_is_not_resumed(
    interrupted: Any, commands: Any, tmp_path: Path
) -> None:
    cli = commands.Cli(tmp_path)
    (tmp_path / "run.nxs").write_bytes((interrupted.folder / "run.nxs").read_bytes())
    lines = (interrupted.folder / "run.nxs.journal").read_text()
    assert "the dose and the heat that the specimen has received are not known" in refused(
        cli, "run.nxs"
    )
    (tmp_path / "run.nxs.journal").write_text(lines.replace('"run":"', '"run":"x'))
    assert "belongs to run x" in refused(cli, "run.nxs")


def test_a_run_in_simulated_time_resumes_at_its_speed_and_later(interrupted: Any, cli: Any) -> None:
    for name in ("run.nxs", "run.nxs.journal"):
        shutil.copy(interrupted.folder / name, cli.folder)
    running = cli.start("run", "--resume", "run.nxs")
    running.wait_for("resumed after")
    assert cli("pause", "--endpoint", running.control).returncode == 0
    second = cli("run", "--resume", "run.nxs")
    assert second.returncode == 2
    assert "its run is still under way: its recorder is running" in second.stderr
    assert cli("resume", "--endpoint", running.control).returncode == 0
    assert running.wait() == 0, running.text()
    found = cli.inspect("run.nxs")
    assert (found["status"], found["frames"]) == ("complete", FRAMES)
    with h5py.File(cli.folder / "run.nxs") as file:
        time_s = file["entry/telemetry/heater/temperature_c/time"][()]
        assert (np.diff(time_s) > 0).all()
        assert float(file["entry/run/speed"][()]) == 10.0
    assert "complete already: there is nothing to resume" in refused(cli, "run.nxs")
