"""A small experiment in a daemon of this process, on a microscope that stands beside it.

A row gives the moment and what strikes; what comes back is everything by which it is judged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401
import pytest
from command_line import TINY

from pyrotome.daemon.recording.recovery import recover
from pyrotome.daemon.run.experiment import Outcome
from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.daemon.service.daemon import Daemon, exit_code
from pyrotome.daemon.service.startup import DaemonOptions, running_daemon
from pyrotome.daemon.streaming.telemetry_hub import PublishedEvent
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import load_rig
from pyrotome.protocols.runfile.layout import RECORDED
from pyrotome.protocols.runfile.summary import inspect_file

TILTS = {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "10 deg"}}
RECIPE: dict[str, Any] = {
    "title": "Row of the fault catalogue",
    **TINY,
    "limits": {"temperature": "900 degC", "dose": "1000 e/nm^2"},
    "steps": [
        {"heat": {"to": "200 degC"}},
        TILTS,
        {
            "cycle": {
                "standby": "200 degC", "processing": "350 degC", "holds": ["0.5 s"],
                "then": [TILTS],
            }
        },
    ],
}  # fmt: skip
FRAMES = 6
ANALYSIS = [{"reconstruct": {"method": "sirt", "iterations": 1, "binning": 2}}]


@dataclass(frozen=True)
class Ended:
    """A run that has ended: outcome, exit code, messages, file, and the microscope's log."""

    outcome: Outcome
    code: int
    state: str
    said: str
    file: Path
    found: dict[str, Any]
    log: Any

    def complete(self) -> None:
        """Nothing is missing."""
        assert self.outcome.status == "complete", self.said
        assert self.code == 0
        assert (self.found["frames"], self.found["lost_frames"]) == (FRAMES, 0), self.said
        assert self.found["holds"][0]["achieved_s"] == pytest.approx(0.5, abs=0.25)


class Bench:
    """Runs the small experiment with the shared microscope."""

    def __init__(self, microscope: Any, reaction: Any, folder: Path) -> None:
        self.microscope, self.reaction, self.folder = microscope, reaction, folder
        self.said: list[str] = []

    async def run(
        self,
        strike: Callable[[Daemon], Awaitable[None]],
        at: str = "frames",
        recipe: dict[str, Any] | None = None,
        recovered: bool = False,
        **rig_changes: Any,
    ) -> Ended:
        """Start the experiment and let a fault happen after the second frame or in the hold.

        The file must open as it is, unless it is to be `recovered` first.

        Returns
        -------
        Ended
            When the microscope itself says that beam and heater are safe.
        """
        microscope, reaction = self.microscope, self.reaction
        rig, text = load_rig(microscope.write_rig("row.yaml", **rig_changes))
        plan = make_plan(Recipe.model_validate({**RECIPE, **(recipe or {})}), rig)
        file = self.folder / "run.nxs"
        async with running_daemon(rig, text, DaemonOptions(fall_back_ports=True)) as daemon:
            daemon.bus.subscribe(
                PublishedEvent, lambda event: self.said.append(str(event.header.get("message")))
            )
            progress = daemon.start(plan, "", file).engine.progress
            if at == "frames":
                await self.until(lambda: progress.frames_done >= 2, daemon)
            else:
                await self.until(lambda: microscope.log().setpoint_c == 350, daemon)
            reaction.begins()
            over = asyncio.create_task(daemon.wait())
            try:
                await strike(daemon)
                outcome = await asyncio.wait_for(asyncio.shield(over), max(1.0, reaction.left_s))
            except TimeoutError:
                pytest.fail(f"did not end in time: {daemon.status()}\n{self.said}")
            finally:
                if not over.done():
                    with contextlib.suppress(Exception):
                        await daemon.abort("the row is over")
                await asyncio.gather(over, return_exceptions=True)
            if microscope.alive:
                await asyncio.to_thread(microscope.well)
                left_s = max(1.0, reaction.left_s)
                await asyncio.to_thread(microscope.wait_until_safe, left_s)
            reaction.ends()
            state = str(daemon.machine.state)
        said = "\n".join([outcome.reason, *self.said])
        assert "Traceback" not in said
        log = microscope.log()
        assert log.safe or not microscope.alive, said
        code = exit_code(outcome, interrupted=False)
        if recovered:
            recover(file)
        found = inspect_file(file) if file.exists() else {}
        if found:
            _read(file, found)
        return Ended(outcome, code, state, said, file, found, log)

    async def until(self, true: Callable[[], object], daemon: Daemon) -> None:
        """Wait until something is true of the run."""
        for _ in range(6000):
            if true():
                return
            assert daemon.experiment is not None, (daemon.last_outcome, self.said)
            await asyncio.sleep(0.01)
        pytest.fail(f"the moment did not come: {daemon.status()}")


def _read(file: Path, found: dict[str, Any]) -> None:
    """Check that frames marked as recorded have pixels."""
    with h5py.File(file) as opened:
        for series in found["series"]:
            keys = opened[f"{series['name']}/instrument/detector/image_key"][()]
            data = opened[f"{series['name']}/instrument/detector/data"][()]
            assert all(data[k].sum() > 0 for k in range(len(keys)) if keys[k] == RECORDED)
