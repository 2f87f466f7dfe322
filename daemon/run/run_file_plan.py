"""What a new run file will be: its path, and the manifest of what the run will record."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from ... import __version__
from ...protocols.core.clock import iso_utc
from ...protocols.core.errors import BadInput
from ...protocols.messages.manifest import RunManifest
from ..resume.run_journal import journal_path
from ..schedule.plan import Plan
from ..tracking.follower import BEAM_CHANNELS, CHANNELS
from ..tracking.scout_plan import scouts_plan
from ..tracking.tracking_plan import tracking_plan
from .context import RunContext

DAEMON_CHANNELS = {
    "loop_lag_s": "s",
    "backlog_frames": "",
    "staleness_s": "s",
    "dose_e_per_nm2": "e/nm^2",
}


def tracking_path(path: Path) -> Path:
    """Where the tracker keeps what it knows of the run of a file."""
    return path.with_name(path.name + ".tracking")


def _channels(plan: Plan, context: RunContext) -> dict[str, dict[str, str]]:
    channels = {**context.devices.channels(), "daemon": DAEMON_CHANNELS}
    if plan.recipe.tracked:
        channels["beam"] = {**channels.get("beam", {}), **BEAM_CHANNELS}
        channels["tracker"] = dict(CHANNELS)
    return channels


def new_manifest(plan: Plan, recipe_text: str, context: RunContext) -> RunManifest:
    """The manifest of a run that begins now.

    Parameters
    ----------
    plan : Plan
        What the run does.
    recipe_text : str
        The recipe as it was written.
    context : RunContext
        The daemon's rig and devices.
    """
    rig, devices = context.rig, context.devices
    tracking = tracking_plan(plan.recipe, rig)
    if tracking is not None:
        tracking = tracking.model_copy(update={"scouts": scouts_plan(plan, rig)})
    started_ns = context.clock.now_ns()
    return RunManifest(
        run=f"{iso_utc(started_ns)[:19].replace(':', '')}-{secrets.token_hex(3)}",
        title=plan.recipe.title,
        software=f"pyrotome {__version__}",
        started_ns=started_ns,
        speed=context.clock.speed,
        simulated=context.simulated,
        recipe_text=recipe_text,
        rig_text=context.rig_text,
        rig_name=rig.name,
        rig_file=context.rig_file,
        sample=plan.recipe.sample,
        beam=plan.recipe.beam,
        detector=rig.detector.driver,
        instruments=dict(context.identities),
        value_offset=rig.detector.value_offset,
        frame_dtype=devices.detector.dtype,
        marked_value=devices.detector.marked_value,
        stacks=plan.stacks,
        holds=plan.holds,
        holds_before=plan.holds_before,
        telemetry=_channels(plan, context),
        analysis=tuple(step.model_dump() for step in plan.recipe.analysis),
        run_results=plan.run_results,
        adaptive_holds=plan.adaptive_holds,
        tracking=tracking,
    )


def new_output(path: Path | None, title: str, folder: Callable[[], Path] = Path.cwd) -> Path:
    """Where a new run file goes: the requested path, or a name made of the title.

    Raises
    ------
    BadInput
        If it exists or cannot be created there. Nothing is ever overwritten.
    """
    if path is None:
        stem = "".join(c if c.isalnum() else "_" for c in title.lower()).strip("_")[:60] or "run"
        path = folder() / f"{stem}.nxs"
        number = 1
        while path.exists() or journal_path(path).exists():
            number += 1
            path = folder() / f"{stem}-{number}.nxs"
    path = path.absolute()
    if path.exists():
        raise BadInput(str(path), "exists already; nothing is overwritten, name another file")
    if journal_path(path).exists():
        raise BadInput(
            str(journal_path(path)),
            "exists already: the journal of an interrupted run whose file is gone; move it away, "
            "or name another file",
        )
    if not path.parent.is_dir():
        raise BadInput(str(path), "its folder does not exist; make it first")
    return path
