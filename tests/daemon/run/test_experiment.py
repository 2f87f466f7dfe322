"""A whole run on a simulated microscope: complete, stopped, refused; what file and journal say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from command_line import TINY

from pyrotome.daemon.resume.run_journal import journal_path, read_journal
from pyrotome.daemon.run.experiment import Experiment
from pyrotome.daemon.schedule.plan import Plan, make_plan
from pyrotome.daemon.schedule.states import State
from pyrotome.daemon.service.daemon import Daemon
from pyrotome.daemon.streaming.telemetry_hub import PublishedEvent
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import Rig
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.journal import MadeSafe, RunLine
from pyrotome.protocols.runfile.layout import CLOCK, HOLDS
from pyrotome.protocols.runfile.summary import inspect_file

SERIES = {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "10 deg"}}
STEPS: list[dict[str, Any]] = [
    {"heat": {"to": "60 degC"}},
    {"cycle": {"standby": "60 degC", "processing": "120 degC", "holds": ["0.5 s"],
               "then": [SERIES]}},
]  # fmt: skip


def plan(rig: Rig, steps: list[dict[str, Any]]) -> Plan:
    recipe = Recipe.model_validate({"title": "Run", **TINY, "limits": {}, "steps": steps})
    return make_plan(recipe, rig)


def experiment(daemon: Daemon, rig: Rig, file: Path, steps: list[dict[str, Any]]) -> Experiment:
    return daemon.experiment_for(plan(rig, steps), "title: Run\n", file)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def hears(daemon: Daemon) -> list[str]:
    said: list[str] = []
    daemon.bus.subscribe(PublishedEvent, lambda event: said.append(event.header["message"]))
    return said


async def test_a_complete_run_is_in_its_file_with_holds_clock_and_events(
    open_daemon: Any, rig: Rig, run_file: Path
) -> None:
    async with open_daemon() as daemon:
        said = hears(daemon)
        run = experiment(daemon, rig, run_file, STEPS)
        outcome = await run.run()
        assert (outcome.status, outcome.reason) == ("complete", "")
        assert run.closing
        assert daemon.machine.state is State.IDLE
        assert "acquisition complete, beam blanked, heater at its safe level" in said
        assert run.status()["frames_done"] == 3
        assert daemon.hub.stamper.run is None
    found = inspect_file(run_file)
    assert (found["status"], found["frames"]) == ("complete", 3)
    assert found["holds"][0]["achieved_s"] == pytest.approx(0.5, abs=0.25)
    with h5py.File(run_file) as file:
        assert file[f"{HOLDS}/crossed_up_ns"][0] > 0
        assert len(file[f"{CLOCK}/monotonic_ns"]) == 1
        events = [text.decode() for text in file["entry/events/message"][()]]
    assert not [text for text in events if text == "clock reading"]
    assert [text for text in events if text.startswith("hold 1: ")]
    assert not journal_path(run_file).exists()


async def test_a_stopped_run_makes_safe_and_keeps_its_journal(
    open_daemon: Any, rig: Rig, run_file: Path, microscope: Any
) -> None:
    async with open_daemon() as daemon:
        run = experiment(daemon, rig, run_file, [{"heat": {"to": "60 degC", "hold": "1 h"}}])
        running = asyncio.create_task(run.run())
        await until(lambda: run.engine.progress.operation is not None)
        run.stop("aborted", "the first reason")
        run.stop("failed", "a later reason")
        outcome = await running
        assert (outcome.status, outcome.reason) == ("aborted", "the first reason")
        assert run.safe_confirmed
    assert microscope.log().blanked
    assert microscope.log().setpoint_c == 25.0
    entries = [noted.entry for noted in read_journal(run_file)[0]]
    assert entries[0] == RunLine(run=run.run_id)
    safe = [entry for entry in entries if isinstance(entry, MadeSafe)]
    assert safe[0].beam_blanked_ns is not None
    assert safe[1].heater_safe_ns is not None


async def test_an_angle_that_the_stage_itself_refuses_is_bad_input(
    open_daemon: Any, rig: Rig, run_file: Path
) -> None:
    limits = rig.stage.limits.model_copy(update={"tilt_deg": (-90.0, 90.0)})
    wide = rig.model_copy(update={"stage": rig.stage.model_copy(update={"limits": limits})})
    steep = {"tilt_series": {"from": "80 deg", "to": "88 deg", "step": "4 deg"}}
    async with open_daemon() as daemon:
        outcome = await experiment(daemon, wide, run_file, [steep]).run()
        assert outcome.status == "failed"
        assert isinstance(outcome.error, BadInput)
        assert "beyond what the stage itself allows" in outcome.reason
    assert not run_file.exists()  # noqa: ASYNC240


async def test_a_journal_that_is_in_the_way_fails_the_run_before_it_begins(
    open_daemon: Any, rig: Rig, run_file: Path
) -> None:
    journal_path(run_file).write_text("of another run\n")
    async with open_daemon() as daemon:
        outcome = await experiment(daemon, rig, run_file, STEPS).run()
        assert outcome.status == "failed"
        assert "run.nxs.journal cannot be written: File exists" in outcome.reason
        assert daemon.machine.state is State.IDLE
    assert journal_path(run_file).read_text() == "of another run\n"


async def test_safety_that_is_not_confirmed_panics(
    open_daemon: Any, rig: Rig, run_file: Path, microscope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyrotome.daemon.safety.devices.SAFING_STEP_TIMEOUT_S", 0.3)
    async with open_daemon() as daemon:
        run = experiment(daemon, rig, run_file, [{"heat": {"to": "60 degC", "hold": "1 h"}}])
        running = asyncio.create_task(run.run())
        await until(lambda: run.engine.progress.operation is not None)
        await asyncio.to_thread(microscope.fault, "beam:error")
        run.stop("aborted", "by the test")
        await running
        assert not run.safe_confirmed
        assert daemon.machine.state is State.PANICKED
        await asyncio.to_thread(microscope.fault, "beam:none")
        await daemon.safing.clear()
