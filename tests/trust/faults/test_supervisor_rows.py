"""Rows of the catalogue: what the supervisor detects, in a run and idle."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from microscope import Log

from pyrotome.daemon.runtime.processes import Child
from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.daemon.schedule.states import State
from pyrotome.daemon.service.daemon import Busy, Daemon
from pyrotome.daemon.service.startup import guarded_daemon, start_simulators
from pyrotome.daemon.streaming.telemetry_hub import PublishedEvent
from pyrotome.drivers.base import DeviceError
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import Rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.documents import load_model

# A row that never ends is what this is for, not a slow computer.
PATIENCE_S = 180.0
# Without an overshoot there is nothing to wait for after a step.
SIMULATOR = {
    "specimen": {"kind": "cu-sintering", "particles": 2},
    "goniometer": {"speed": "60 deg/s"},
    "chip": {"overshoot": 0.0},
}
WARN = {"action": "warn"}


class Site:
    """A daemon with its simulated instruments, what it has said, and the world's own log."""

    def __init__(
        self,
        daemon: Daemon,
        simulators: Child,
        log: Path,
        recipe: dict[str, Any],
        folder: Path,
    ) -> None:
        self.daemon, self._simulators = daemon, simulators
        self._log, self._recipe, self.folder = log, recipe, folder
        self.events: list[dict[str, Any]] = []
        daemon.bus.subscribe(PublishedEvent, lambda event: self.events.append(event.header))

    def switch_fault(self, text: str) -> None:
        """Let a simulated wire misbehave, as `pyrotome simulate` does."""
        pipe = self._simulators.process.stdin
        assert pipe is not None
        pipe.write(text.encode() + b"\n")

    async def until(self, so: Callable[[], Any]) -> Any:
        """Wait until something holds; returns it."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := so()):
                await asyncio.sleep(0.02)
        return found

    async def said(self, rule: str, over: bool = False) -> dict[str, Any]:
        """Wait for a rule to trip, or to be over."""

        def so() -> list[dict[str, Any]]:
            return [e for e in self.events if e.get("rule") == rule and e["over"] is over]

        return (await self.until(so))[0]

    def world(self, event: str) -> list[dict[str, Any]]:
        """Lines of the world's log, of one kind."""
        lines = self._log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [line for line in found if line["event"] == event]

    @property
    def beam_on(self) -> bool:
        """Whether the world's beam is not blanked."""
        return not Log(self.world("beam")).blanked

    async def heat_to(self, temperature_c: float) -> None:
        """Bring the chip somewhere without a run, and let it be there for a moment."""
        await self.daemon.devices.heater.set_temperature(temperature_c)
        clock, watch = self.daemon.clock, self.daemon.watch
        await self.until(
            lambda: watch.latest and abs(watch.latest.temperature_c - temperature_c) < 5
        )
        await clock.sleep(2.5)

    async def hotter_than(self, temperature_c: float) -> None:
        """Wait for a reading."""
        watch = self.daemon.watch
        await self.until(lambda: watch.latest and watch.latest.temperature_c > temperature_c)

    async def heater_safe(self) -> None:
        """Wait until the world says that the heater was sent to its safe temperature."""
        await self.until(lambda: self.world("heater")[-1]["target_c"] == 25.0)

    def begin(self, steps: list[dict[str, Any]], **changes: Any) -> Any:
        """Start a run."""
        body = {**self._recipe, "steps": steps, "analysis": [], "limits": {}}
        text = yaml.safe_dump({**body, **changes})
        plan = make_plan(load_model(Recipe, text, "recipe"), self.daemon.rig, "recipe")
        number = len(list(self.folder.glob("*.nxs")))
        return self.daemon.start(plan, text, self.folder / f"run{number}.nxs")


@pytest.fixture
def site(commands: Any, tmp_path: Path) -> Callable[..., Any]:
    """Start a daemon on the simulated rig with some keys replaced."""

    @asynccontextmanager
    async def start(
        speed: float = 1.0,
        heater: dict[str, Any] | None = None,
        guardian_timeout: str = "20 s",
        **supervisor: Any,
    ) -> AsyncIterator[Site]:
        body = {**commands.RIG, "simulator": SIMULATOR, "supervisor": supervisor}
        body["guardian"] = {"timeout": guardian_timeout}
        options = {**commands.RIG["heater"]["options"], **(heater or {}).get("options", {})}
        body["heater"] = {**commands.RIG["heater"], **(heater or {}), "options": options}
        rig = load_model(Rig, yaml.safe_dump(body), "rig")
        log = tmp_path / "world.log"
        clock = ExperimentClock(speed)
        served, simulators = await start_simulators(rig, clock, log)
        try:
            async with guarded_daemon(served, "rig", clock, simulators) as daemon:
                yield Site(daemon, simulators, log, commands.RECIPE, tmp_path)
        finally:
            await simulators.stop()

    return start


REFERENCE = [
    {"heat": {"to": "100 degC", "rate": "300 degC/s"}},
    {"reference": {"frames": 400}},
]


@pytest.mark.fault(
    broken="the heater heats on whatever its setpoint, idle",
    must="rate trips, heater commanded to safety, no run is started meanwhile", within_s=10.0,
)  # fmt: skip
async def test_runaway(site: Any, reaction: Any) -> None:
    async with site() as here:
        await here.heat_to(200.0)
        here.switch_fault("heater:runaway")
        reaction.begins()
        trip = await here.said("rate")
        await here.heater_safe()
        reaction.ends()
        assert trip["action"] == "safe"
        assert trip["value"] > trip["bound"]
        assert trip["message"].startswith("rate: heater changes by ")
        # It heats on whatever it is told, so nobody may begin.
        again = await here.said("progress")
        await here.until(lambda: here.daemon.machine.state is State.IDLE)
        assert again["message"].startswith("progress: heater reads ")
        with pytest.raises(Busy, match=r"supervisor: (rate|progress|over-temperature): heater"):
            here.begin(REFERENCE)
        assert here.daemon.status()["alarms"]


@pytest.mark.fault(
    broken="the heater leaves the recipe's limit behind in a run",
    must="over-temperature trips, the run fails safely", within_s=10.0,
)  # fmt: skip
async def test_over_temperature(site: Any, reaction: Any) -> None:
    async with site(rate=WARN, progress=WARN) as here:
        steps = [{"heat": {"to": "200 degC", "hold": "1 h"}}]
        here.begin(steps, limits={"temperature": "210 degC"})
        await here.hotter_than(190.0)
        # What the step of 175 K entitles a controller to has to wear off first.
        here.switch_fault("heater:runaway")
        reaction.begins()
        trip = await here.said("over-temperature")
        await here.heater_safe()
        reaction.ends()
        assert trip["value"] > trip["bound"] > 210
        outcome = await here.daemon.wait()
        assert outcome.status == "failed"
        assert outcome.reason.startswith("supervisor: over-temperature: heater reads 2")
        assert "the recipe allows 210 degC, bound 2" in outcome.reason
        assert here.world("beam")[-1]["blanked"]
        assert here.daemon.machine.state is State.IDLE


@pytest.mark.fault(
    broken="the heater stays where it is", must="progress trips after its delay",
    within_s=10.0,
)  # fmt: skip
async def test_stuck(site: Any, reaction: Any) -> None:
    async with site(speed=10.0) as here:
        await here.heat_to(100.0)
        here.switch_fault("heater:stuck")
        await asyncio.sleep(0.2)
        reaction.begins()
        await here.daemon.devices.heater.set_temperature(300.0)
        trip = await here.said("progress")
        await here.heater_safe()
        reaction.ends()
        assert (trip["t_ns"] - trip["since_ns"]) * 1e-9 >= 10.0
        here.switch_fault("heater:none")
        await here.said("progress", over=True)
        await here.until(lambda: here.daemon.machine.state is State.IDLE)


@pytest.mark.fault(
    broken="resistance and temperature disagree in a run", must="implausible trips, run fails",
    within_s=10.0,
)  # fmt: skip
async def test_implausible(site: Any, reaction: Any) -> None:
    async with site() as here:
        here.begin([{"heat": {"to": "200 degC", "hold": "1 h"}}])
        await here.hotter_than(190.0)
        await asyncio.sleep(1.5)
        here.switch_fault("heater:implausible")
        reaction.begins()
        trip = await here.said("implausible")
        await here.heater_safe()
        reaction.ends()
        assert "ohm were seen before" in trip["message"]
        outcome = await here.daemon.wait()
        assert outcome.reason.startswith("supervisor: implausible: ")


@pytest.mark.fault(
    broken="the sensor falls off and the controller heats all it can",
    must="implausible trips by the power that heats nothing", within_s=15.0,
)  # fmt: skip
async def test_sensor_off(site: Any, reaction: Any) -> None:
    async with site(rate=WARN, progress=WARN) as here:
        await here.heat_to(200.0)
        here.switch_fault("heater:sensor-off")
        reaction.begins()
        trip = await here.said("implausible")
        await here.heater_safe()
        reaction.ends()
        assert "has the sensor fallen off?" in trip["message"]
        assert trip["unit"] == "W"


@pytest.mark.fault(
    broken="the last sample is sent again and again", must="stale trips, and a person must clear",
    within_s=10.0,
)  # fmt: skip
async def test_frozen_readings(site: Any, reaction: Any) -> None:
    async with site(speed=5.0) as here:
        await here.heat_to(200.0)
        here.switch_fault("heater:freeze")
        reaction.begins()
        trip = await here.said("stale")
        await here.heater_safe()
        reaction.ends()
        assert "readings repeat" in trip["message"]
        # Frozen readings cannot confirm anything.
        machine = here.daemon.machine
        await here.until(lambda: machine.state is State.PANICKED)
        with pytest.raises(Busy, match="panicked: a person must look"):
            here.begin(REFERENCE)
        here.switch_fault("heater:none")
        await here.said("stale", over=True)
        steps = await here.daemon.safing.clear()
        assert [step.action for step in steps if step.confirmed][:2] == [
            "beam blanked", "heater at its safe level",
        ]  # fmt: skip
        assert machine.state is State.IDLE
        with pytest.raises(Busy, match="nothing to clear"):
            await here.daemon.safing.clear()


@pytest.mark.fault(
    broken="samples cease in a run, commands are answered",
    must="stale trips where the driver still waits", within_s=10.0,
)  # fmt: skip
async def test_silent_heater(site: Any, reaction: Any) -> None:
    async with site(speed=5.0, heater={"options": {"stale_s": 600.0}}) as here:
        here.begin([{"heat": {"to": "200 degC", "hold": "1 h"}}])
        await here.hotter_than(190.0)
        here.switch_fault("heater:silent")
        reaction.begins()
        trip = await here.said("stale")
        await here.heater_safe()
        reaction.ends()
        assert "no reading has come" in trip["message"]
        here.switch_fault("heater:none")
        outcome = await here.daemon.wait()
        assert (outcome.status, type(outcome.error).__name__) == ("failed", "DeviceLost")


@pytest.mark.fault(
    broken="an unblanked column refuses everything for a while, nothing runs",
    must="the beam is blanked when it answers again; the panic stays", within_s=5.0,
)  # fmt: skip
async def test_column_that_comes_back(site: Any, reaction: Any) -> None:
    async with site() as here:
        # In this order: else the supervisor may blank the beam before the column refuses.
        here.switch_fault("beam:error")
        here.switch_fault("beam:unblank")
        await here.until(lambda: here.beam_on)
        with pytest.raises(DeviceError, match="Check beam and heater now"):
            await here.daemon.safing.safe()
        assert here.daemon.machine.state is State.PANICKED
        assert here.beam_on
        here.switch_fault("beam:none")
        reaction.begins()
        await here.until(lambda: not here.beam_on)
        reaction.ends()
        told = await here.until(lambda: [e for e in here.events if "at last" in e["message"]])
        assert [e["message"] for e in told] == [
            "beam blanked at last; a person must still check and clear the panic"
        ]
        assert here.daemon.machine.state is State.PANICKED
        await here.daemon.safing.clear()
        assert here.daemon.machine.state is State.IDLE


@pytest.mark.fault(
    broken="the beam comes on by itself in a hold", must="unblanked trips, beam blanked",
    within_s=10.0,
)  # fmt: skip
async def test_unblanked(site: Any, reaction: Any) -> None:
    async with site() as here:
        here.begin([{"heat": {"to": "200 degC", "hold": "1 h"}}])
        await here.hotter_than(190.0)
        here.switch_fault("beam:unblank")
        reaction.begins()
        await here.until(lambda: not here.world("beam")[-1]["blanked"])
        await here.said("unblanked")
        await here.until(lambda: here.world("beam")[-1]["blanked"])
        reaction.ends()
        outcome = await here.daemon.wait()
        assert outcome.reason.startswith("supervisor: unblanked: the beam is on")


@pytest.mark.fault(
    broken="the stage creeps while frames are exposed",
    must="moving trips and names them, the run pauses", within_s=10.0,
)  # fmt: skip
async def test_moving_stage(site: Any, reaction: Any) -> None:
    async with site() as here:
        experiment = here.begin(REFERENCE)
        await here.until(lambda: experiment.engine.progress.frames_done > 2)
        here.switch_fault("stage:drift")
        reaction.begins()
        trip = await here.said("moving")
        await here.until(lambda: here.daemon.machine.state is State.PAUSED)
        reaction.ends()
        assert "of reference_001" in trip["message"]
        assert trip["action"] == "pause"
        here.switch_fault("stage:none")
        # A person has looked.
        done = experiment.engine.progress.frames_done
        here.daemon.resume()
        await here.until(lambda: experiment.engine.progress.frames_done > done)
        await here.said("moving", over=True)


@pytest.mark.fault(
    broken="the column valves close while frames are taken", must="vacuum trips, the run pauses",
    within_s=10.0,
)  # fmt: skip
async def test_closed_valves(site: Any, reaction: Any) -> None:
    async with site() as here:
        experiment = here.begin(REFERENCE)
        await here.until(lambda: experiment.engine.progress.frames_done > 2)
        here.switch_fault("beam:valves")
        reaction.begins()
        await here.said("vacuum")
        await here.until(lambda: here.daemon.machine.state is State.PAUSED)
        reaction.ends()


@pytest.mark.fault(
    broken="the microscope's vacuum fails, idle", must="vacuum trips, no run is started",
    within_s=10.0,
)  # fmt: skip
async def test_vacuum(site: Any, reaction: Any) -> None:
    async with site() as here:
        here.switch_fault("beam:vacuum")
        reaction.begins()
        await here.said("vacuum")
        with pytest.raises(Busy, match="supervisor: vacuum: the microscope's vacuum"):
            here.begin(REFERENCE)
        reaction.ends()
        here.switch_fault("beam:none")
        await here.said("vacuum", over=True)
        here.begin(REFERENCE)


@pytest.mark.fault(
    broken="the beam server hangs when everything is to be made safe",
    must="the heater is commanded all the same", within_s=1.0,
)  # fmt: skip
async def test_hung_beam(site: Any, reaction: Any) -> None:
    async with site() as here:
        await here.heat_to(200.0)
        here.switch_fault("beam:hang")
        await asyncio.sleep(0.2)
        reaction.begins()
        safing = asyncio.create_task(here.daemon.safing.safe())
        await here.heater_safe()
        reaction.ends()
        assert not safing.done()
        here.switch_fault("beam:none")
        steps = await safing
        assert [step.action for step in steps] == [
            "beam blanked", "heater at its safe level", "stage stopped", "detector stopped",
        ]  # fmt: skip
        assert all(step.confirmed for step in steps)
        assert steps[0].took_s > steps[1].took_s
        assert here.daemon.machine.state is State.IDLE


@pytest.mark.fault(
    broken="the guardian is killed", must="another one watches, runs are refused meanwhile",
    within_s=15.0,
)  # fmt: skip
async def test_killed_guardian(site: Any, reaction: Any) -> None:
    async with site() as here:
        guardian = here.daemon.guardian
        assert guardian.watching
        reaction.begins()
        guardian.process.kill()
        await here.until(lambda: not guardian.watching)
        with pytest.raises(Busy, match="no guardian watches"):
            here.begin(REFERENCE)
        await here.until(lambda: guardian.watching)
        reaction.ends()
        said = [e["message"] for e in here.events if e["source"] == "guardian"]
        assert said[0].startswith("the guardian died with exit status -9")
        await here.until(
            lambda: [e for e in here.events if e["message"] == "another guardian watches"]
        )
        assert not here.world("heater"), "it has not touched anything"


@pytest.mark.fault(
    broken="the event loop of a program that holds a daemon stands still",
    must="the guardian makes safe, the run fails when the loop wakes up", within_s=15.0,
)  # fmt: skip
async def test_blocked_event_loop(site: Any, reaction: Any) -> None:
    async with site(guardian_timeout="2 s") as here:
        here.begin([{"heat": {"to": "200 degC", "hold": "1 h"}}])
        await here.hotter_than(190.0)
        reaction.begins()
        while here.world("heater")[-1]["target_c"] != 25.0:
            time.sleep(0.02)  # noqa: ASYNC251 (this is what is wrong)
            assert reaction.left_s > 0
        reaction.ends()
        outcome = await here.daemon.wait()
        assert outcome.status == "failed"
        assert "the event loop stood still" in outcome.reason
        await here.until(lambda: here.daemon.guardian.watching)
