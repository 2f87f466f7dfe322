"""An interrupted run as it lies on the disk: its file, its journal, the rig that it needs."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.rig import Rig, rig_of_text
from ...protocols.core.errors import BadInput
from ...protocols.messages.manifest import RunManifest
from ...protocols.messages.stream import Message
from ...protocols.runfile import layout
from ...protocols.runfile.reader import open_run
from ...protocols.runfile.writer_lock import is_written
from ..recording.recovery import recover
from ..schedule.plan import Plan
from .journal_history import History
from .remaining import Now, Recorded
from .resume_point import ResumePoint, resume_point
from .run_journal import is_kept, journal_path, read_journal

# How long a run that was killed may take to end: after this it counts as going on.
RECORDER_LEAVES_S = 5.0
GUARDIAN_LEAVES_S = 120.0
_HDF5 = b"\x89HDF\r\n\x1a\n"
# What a person is told, where the file has no reason.
_KILLED = "the processes of the run ended without a word"


@dataclass(frozen=True)
class Interrupted:
    """What is known of a run that is to go on.

    Attributes
    ----------
    path : Path
        Its file.
    manifest : RunManifest
        Of the file.
    reason : str
        Why it ended.
    history : History
        From its journal.
    recorded : Recorded
        From its file.
    tilt_deg : mapping
        Angle that was read back for each frame of each stack.
    problems : tuple of str
        What a person should know of the journal.
    """

    path: Path
    manifest: RunManifest
    reason: str
    history: History
    recorded: Recorded
    tilt_deg: Mapping[str, NDArray[np.float64]]
    problems: tuple[str, ...] = ()

    @property
    def last_ns(self) -> int:
        """The latest moment that anything speaks of."""
        return max(self.recorded.last_ns, self.history.last_ns)

    @property
    def frames(self) -> int:
        """Frames that are recorded."""
        return sum(int(there.sum()) for there in self.recorded.there.values())

    def point(self, plan: Plan, now: Now) -> ResumePoint:
        """Where the run goes on; see `resume_point`."""
        return resume_point(plan, self.history, self.recorded, now, self.reason)

    def headers(self, point: ResumePoint) -> Iterator[Message]:
        """Frame messages for an analysis that starts anew: what is recorded, what never comes."""
        topic = f"frame/{self.manifest.detector}"
        for stack in self.manifest.stacks:
            common: dict[str, Any] = {"type": "frame", "run": self.manifest.run}
            common["series"] = stack.name
            tilts = self.tilt_deg[stack.name]
            for index in np.flatnonzero(self.recorded.there[stack.name]).tolist():
                tilt = float(tilts[index])
                known = {"tilt_deg": tilt} if np.isfinite(tilt) else {}
                yield Message(topic, {**common, **known, "index": index, "in_file": True})
            for index in point.missing.get(stack.name, ()):
                yield Message(topic, {**common, "index": index, "lost": True})


def is_run_file(path: Path) -> bool:
    """Whether a file begins like HDF5, readable or not."""
    try:
        with path.open("rb") as file:
            return file.read(len(_HDF5)) == _HDF5
    except OSError:
        return False


def read_interrupted(path: Path, told: Callable[[str], None] | None = None) -> Interrupted:
    """Recover the file of an interrupted run, and read what resuming needs.

    Parameters
    ----------
    path : Path
        The file.
    told : callable
        Takes what is being waited for: processes of the run that are just ending.

    Raises
    ------
    BadInput
        If there is no such run, it is complete, or it still goes on.
    """
    path = path.absolute()
    if not path.exists():
        raise BadInput(str(path), "no such file; name the file of the interrupted run")
    _wait_until_left(path, told)
    found = recover(path)
    manifest = found.manifest
    if manifest is None:
        raise BadInput(str(path), "holds imported frames, not a run that could go on")
    if found.status == "complete":
        raise BadInput(str(path), "complete already, nothing to resume")
    try:
        with open_run(path) as run, run.reading():
            reason = run.reason or _KILLED
            heater_s, heater_c, start_ns = run.heater_temperature()
            held = np.flatnonzero(run.values(f"{layout.HOLDS}/crossed_down_ns") >= 0)
            stacks = [run.stacks[stack.name] for stack in manifest.stacks]
            begun = any(np.isfinite(stack.time_s).any() for stack in stacks)
            tilt_deg = {stack.name: stack.tilt_deg for stack in stacks}
    except BadInput as error:
        raise BadInput(str(path), f"the run cannot be resumed: {error.problem}") from error
    entries, damaged = [], list[str]()
    try:
        entries, damaged = read_journal(path)
    except FileNotFoundError:
        if begun or held.size:
            raise BadInput(
                str(journal_path(path)),
                "no such file: without it nobody knows what the specimen has received, "
                "so the run cannot go on",
            ) from None
    except OSError as error:
        raise BadInput(str(journal_path(path)), f"cannot be read: {error.strerror}") from None
    history = History.of(entries)
    if entries and history.run != manifest.run:
        raise BadInput(
            str(journal_path(path)), f"belongs to run {history.run}, not to {manifest.run}"
        )
    holds = manifest.holds
    recorded = Recorded(
        there={name: keys == layout.RECORDED for name, keys in found.image_keys.items()},
        heater_ns=start_ns + np.rint(heater_s * 1e9).astype(np.int64),
        heater_c=heater_c,
        holds=frozenset(holds[row].index for row in held.tolist() if row < len(holds)),
        last_ns=found.last_ns,
    )
    problems = (
        *(f"{path.name}: {text}" for text in (*found.done, *found.lost)),
        *(f"{journal_path(path).name}: {text}; skipped" for text in damaged),
    )
    return Interrupted(path, manifest, reason, history, recorded, tilt_deg, problems)


def _wait_until_left(path: Path, told: Callable[[str], None] | None) -> None:
    """Wait until recorder and guardian of a run that was just killed have ended."""
    waits: tuple[tuple[str, Callable[[Path], bool], float], ...] = (
        ("its recorder", is_written, RECORDER_LEAVES_S),
        ("its guardian, which makes beam and heater safe", is_kept, GUARDIAN_LEAVES_S),
    )
    for who, there, limit_s in waits:
        end = time.monotonic() + limit_s
        if there(path) and told is not None:
            told(f"{path.name}: waiting for {who}")
        while there(path):
            if time.monotonic() > end:
                raise BadInput(str(path), f"its run still goes on: {who} is there")
            time.sleep(0.05)


def rig_of_run(interrupted: Interrupted) -> tuple[Rig, str]:
    """The rig as the file of a run has it.

    Raises
    ------
    BadInput
        If it names files that cannot be found from there.
    """
    manifest = interrupted.manifest
    folder = Path(manifest.rig_file).parent if manifest.rig_file is not None else None
    name = f"the rig in {interrupted.path.name}"
    rig = rig_of_text(manifest.rig_text, name, folder if folder and folder.is_dir() else None)
    return rig, manifest.rig_text


def same_recipe(interrupted: Interrupted, text: str, name: str) -> None:
    """Make sure that a recipe is the one of an interrupted run.

    Raises
    ------
    BadInput
        If not, naming the first line that differs.
    """
    there, here = interrupted.manifest.recipe_text.splitlines(), text.splitlines()
    if there == here:
        return
    matcher = difflib.SequenceMatcher(None, there, here, autojunk=False)
    _, a, _, b, _ = next(step for step in matcher.get_opcodes() if step[0] != "equal")
    was = f"there stands '{there[a].strip()}'" if a < len(there) else "which ends before"
    raise BadInput(
        f"{name}:{b + 1}",
        f"differs from the recipe in {interrupted.path}, {was}. A run goes on with the recipe "
        f"that it began with: `pyrotome run --resume {interrupted.path}`",
    )


def check_fit(interrupted: Interrupted, rig: Rig, plan: Plan) -> None:
    """Make sure that a run can go on with a rig.

    Raises
    ------
    BadInput
        If the rig is another one, or the plan that it gives is not that of the file.
    """
    manifest = interrupted.manifest
    pairs = {
        "name": (rig.name, manifest.rig_name),
        "detector": (rig.detector.driver, manifest.detector),
        "detector.value_offset": (rig.detector.value_offset, manifest.value_offset),
        "simulator": (rig.simulator is not None, manifest.simulated),
    }
    for what, (here, there) in pairs.items():
        if here != there:
            raise BadInput(
                f"rig '{rig.name}': {what}", f"is {here!r}; {interrupted.path} began with {there!r}"
            )
    if (plan.stacks, plan.holds) != (manifest.stacks, manifest.holds):
        raise BadInput(
            str(interrupted.path),
            "its recipe now gives other frames or holds than it began with: it was made by "
            f"{manifest.software}, resume it with that",
        )
