"""The daemon on a simulated microscope: one experiment at a time, its status, its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import TINY

from pyrotome.daemon.access.keys import make_server_keys
from pyrotome.daemon.run.experiment import Outcome
from pyrotome.daemon.safety.supervisor import Trip
from pyrotome.daemon.schedule.plan import Plan, make_plan
from pyrotome.daemon.schedule.states import Busy, State
from pyrotome.daemon.service.daemon import exit_code
from pyrotome.daemon.streaming.telemetry_hub import PublishedEvent, PublishedState
from pyrotome.drivers.base import DeviceError, DeviceLost
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import Rig, Security
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.runfile.summary import inspect_file

HOLD = [{"heat": {"to": "60 degC", "hold": "1 h"}}]


def plan(rig: Rig, steps: list[Any]) -> Plan:
    recipe = Recipe.model_validate({"title": "Daemon", **TINY, "limits": {}, "steps": steps})
    return make_plan(recipe, rig)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


async def test_an_idle_daemon_tells_temperature_instruments_and_state(open_daemon: Any) -> None:
    async with open_daemon() as daemon:
        await until(lambda: daemon.status()["temperature_c"] is not None)
        status = daemon.status()
        assert status["state"] == "idle"
        assert set(status["instruments"]) == {"heater", "stage", "beam", "detector"}
        assert (status["alarms"], status["guardian"], status["last_run"]) == ([], False, None)
        with pytest.raises(Busy, match="nothing to pause: the daemon is idle"):
            daemon.pause()
        with pytest.raises(Busy, match="no experiment is under way"):
            daemon.resume()
        with pytest.raises(Busy, match="no experiment is under way"):
            await daemon.wait()


async def test_an_experiment_runs_to_its_file_and_the_daemon_is_idle_again(
    open_daemon: Any, rig: Rig, run_file: Path
) -> None:
    async with open_daemon() as daemon:
        states: list[str] = []
        daemon.bus.subscribe(PublishedState, lambda state: states.append(state.status["state"]))
        daemon.start(plan(rig, [{"reference": {"frames": 2}}]), "recipe", run_file)
        with pytest.raises(Busy, match="an experiment is under way"):
            daemon.start(plan(rig, HOLD), "recipe", run_file.with_name("other.nxs"))
        outcome = await daemon.wait()
        assert (outcome.status, exit_code(outcome, False)) == ("complete", 0)
        assert daemon.experiment is None
        assert daemon.status()["last_run"] == "complete"
        assert states[0] == "preparing"
        assert states[-1] == "idle"
    assert inspect_file(run_file)["frames"] == 2
    assert not run_file.with_name("run.nxs.journal").exists()


async def test_pause_resume_and_abort(
    open_daemon: Any, rig: Rig, run_file: Path, microscope: Any
) -> None:
    async with open_daemon() as daemon:
        steps = [{"heat": {"to": "60 degC"}}, {"reference": {"frames": 200}}]
        experiment = daemon.start(plan(rig, steps), "recipe", run_file)
        with pytest.raises(Busy, match="the experiment is not paused"):
            daemon.resume()
        await until(lambda: experiment.engine.progress.frames_done)
        daemon.pause()
        await until(lambda: daemon.machine.state is State.PAUSED)
        daemon.resume()
        await until(lambda: daemon.machine.state is State.RUNNING)
        outcome = await daemon.abort("by the test")
        assert (outcome.status, outcome.reason) == ("aborted", "by the test")
        assert experiment.safe_confirmed
    log = microscope.log()
    assert log.blanked
    assert log.setpoint_c == 25.0
    assert inspect_file(run_file)["status"] == "aborted"


async def test_nothing_is_started_while_a_rule_is_violated(
    open_daemon: Any, rig: Rig, run_file: Path
) -> None:
    async with open_daemon() as daemon:
        trips: list[Trip] = []
        daemon.bus.subscribe(Trip, trips.append)
        sample = await daemon.watch.next_sample(0, "a reading", daemon.clock.now_ns() + 10**10)
        daemon.bus.publish(type(sample)(sample.t_ns + 1, -300.0, 25.0))
        assert trips[0].rule == "implausible"
        with pytest.raises(Busy, match="implausible"):
            daemon.start(plan(rig, HOLD), "recipe", run_file)
        await daemon.safing.finish()
    assert not run_file.exists()  # noqa: ASYNC240


async def test_a_key_file_that_cannot_be_read_is_an_event_and_not_the_end(
    open_daemon: Any, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    make_server_keys(keys)
    (keys / "clients" / "anna.key").write_text("not a key")
    async with open_daemon(security=Security(keys=str(keys))) as daemon:
        said: list[str] = []
        daemon.bus.subscribe(PublishedEvent, lambda event: said.append(event.header["message"]))
        await until(lambda: any("anna.key" in text for text in said))
        assert daemon.access_control.keyed


async def test_closing_ends_a_run_safely(
    open_daemon: Any, rig: Rig, run_file: Path, microscope: Any
) -> None:
    async with open_daemon() as daemon:
        daemon.start(plan(rig, HOLD), "recipe", run_file)
        await until(lambda: daemon.machine.state is State.RUNNING)
    assert daemon.last_outcome is not None
    assert daemon.last_outcome.reason == "the daemon is stopping"
    assert microscope.log().blanked
    assert inspect_file(run_file)["status"] == "aborted"


async def test_a_lost_heater_fails_the_run_and_comes_back(
    open_daemon: Any, rig: Rig, run_file: Path, microscope: Any
) -> None:
    async with open_daemon() as daemon:
        said: list[str] = []
        daemon.bus.subscribe(PublishedEvent, lambda event: said.append(event.header["message"]))
        daemon.start(plan(rig, HOLD), "recipe", run_file)
        await until(lambda: daemon.machine.state is State.RUNNING)
        await asyncio.to_thread(microscope.fault, "heater:hang")
        outcome = await asyncio.wait_for(daemon.wait(), 100)
        assert outcome.status == "failed"
        assert isinstance(outcome.error, DeviceError)
        await asyncio.to_thread(microscope.fault, "heater:none")
        await until(lambda: "connected again" in said)


@pytest.mark.parametrize(
    ("outcome", "interrupted", "code"),
    [
        (Outcome("complete"), False, 0),
        (Outcome("complete"), True, 130),
        (Outcome("aborted", "by the operator"), False, 1),
        (Outcome("aborted", "interrupted"), True, 130),
        (Outcome("failed", "", BadInput("recipe", "no")), False, 2),
        (Outcome("failed", "", DeviceLost("heater", "read", "gone")), True, 3),
        (Outcome("failed", "unexpected"), False, 1),
    ],
)
def test_exit_codes(outcome: Outcome, interrupted: bool, code: int) -> None:
    assert exit_code(outcome, interrupted) == code
