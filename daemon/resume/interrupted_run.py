"""An interrupted run on the disk: its file, its journal, the rig that it needs."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.pipeline import AnalysisStep
from ...protocols.config.recipe import Recipe
from ...protocols.config.rig import Rig, rig_of_text
from ...protocols.core.documents import load_model
from ...protocols.core.errors import BadInput
from ...protocols.messages.manifest import RunManifest
from ...protocols.messages.stream import Message
from ...protocols.runfile import layout
from ...protocols.runfile.reader import open_run
from ...protocols.storage.writer_lock import is_written
from ..recording.recovery import recover
from ..schedule.plan import Plan
from .journal_history import History
from .remaining import Conditions, Recorded
from .resume_point import ResumePoint, resume_point
from .run_journal import is_guarded, journal_path, read_journal

# How long recorder and guardian of a killed run may take to end; after that, the run is alive.
RECORDER_LEAVES_S = 5.0
GUARDIAN_LEAVES_S = 120.0
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Reason of a run whose file has none.
_KILLED = "the processes of the run were killed"


@dataclass(frozen=True)
class InterruptedRun:
    """What is known of a run that is to be resumed.

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
        What the operator should know of file and journal.
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
        """The latest time in file and journal."""
        return max(self.recorded.last_ns, self.history.last_ns)

    @property
    def frames(self) -> int:
        """Frames that are recorded."""
        return sum(int(there.sum()) for there in self.recorded.there.values())

    def point(self, plan: Plan, now: Conditions) -> ResumePoint:
        """Where the run resumes; see `resume_point`."""
        return resume_point(plan, self.history, self.recorded, now, self.reason)

    def headers(self, point: ResumePoint) -> Iterator[Message]:
        """Frame messages for the analysis that starts again: recorded frames, and missing ones."""
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


def read_interrupted(path: Path, notify: Callable[[str], None] | None = None) -> InterruptedRun:
    """Recover the file of an interrupted run, and read what resuming needs.

    Parameters
    ----------
    path : Path
        The file.
    notify : callable
        Called with what is waited for: processes of the run that are still ending.

    Raises
    ------
    BadInput
        If there is no such run, it is complete, or it is still under way.
    """
    path = path.absolute()
    if not path.exists():
        raise BadInput(str(path), "no such file; name the file of the interrupted run")
    _wait_until_ended(path, notify)
    found = recover(path)
    manifest = found.manifest
    if manifest is None:
        raise BadInput(str(path), "holds imported frames, not a run that can be resumed")
    if found.status == "complete":
        raise BadInput(str(path), "is complete already: there is nothing to resume")
    content = _read_file(path, manifest)
    history, damaged = _read_history(path, manifest, needed=content.begun)
    holds = manifest.holds
    recorded = Recorded(
        there={
            name: keys == layout.key_of_recorded(name) for name, keys in found.image_keys.items()
        },
        heater_ns=content.heater_ns,
        heater_c=content.heater_c,
        holds=frozenset(holds[row].index for row in content.held_rows if row < len(holds)),
        last_ns=found.last_ns,
    )
    problems = (
        *(f"{path.name}: {text}" for text in (*found.done, *found.lost)),
        *(f"{journal_path(path).name}: {text}; skipped" for text in damaged),
    )
    return InterruptedRun(
        path, manifest, content.reason, history, recorded, content.tilt_deg, problems
    )


@dataclass(frozen=True)
class _FileContent:
    """What resuming needs of a run file.

    Attributes
    ----------
    reason : str
        Why the run ended.
    heater_ns, heater_c : ndarray of shape (samples,)
        The heater's log.
    held_rows : list of int
        Rows of the holds that are over.
    begun : bool
        Whether a frame was acquired, or a hold is over.
    tilt_deg : mapping
        Angle that was read back for each frame of each stack.
    """

    reason: str
    heater_ns: NDArray[np.int64]
    heater_c: NDArray[np.float64]
    held_rows: list[int]
    begun: bool
    tilt_deg: Mapping[str, NDArray[np.float64]]


def _read_file(path: Path, manifest: RunManifest) -> _FileContent:
    """Read a recovered run file; BadInput if it is damaged all the same."""
    try:
        with open_run(path) as run, run.reading():
            heater_s, heater_c, start_ns = run.heater_temperature()
            held = np.flatnonzero(run.values(f"{layout.HOLDS}/crossed_down_ns") >= 0)
            stacks = [run.stacks[stack.name] for stack in manifest.stacks]
            return _FileContent(
                reason=run.reason or _KILLED,
                heater_ns=start_ns + np.rint(heater_s * 1e9).astype(np.int64),
                heater_c=heater_c,
                held_rows=held.tolist(),
                begun=held.size > 0 or any(np.isfinite(stack.time_s).any() for stack in stacks),
                tilt_deg={stack.name: stack.tilt_deg for stack in stacks},
            )
    except BadInput as error:
        raise BadInput(str(path), f"the run cannot be resumed: {error.problem}") from error


def _read_history(path: Path, manifest: RunManifest, needed: bool) -> tuple[History, list[str]]:
    """History of a run from its journal, and what of the journal is damaged.

    Parameters
    ----------
    path : Path
        The run file.
    manifest : RunManifest
        Of the run.
    needed : bool
        Whether the specimen has received anything, so that a journal must be there.
    """
    journal = str(journal_path(path))
    entries, damaged = [], list[str]()
    try:
        entries, damaged = read_journal(path)
    except FileNotFoundError:
        if needed:
            raise BadInput(
                journal,
                "no such file: the run cannot be resumed, because the dose and the heat that the "
                "specimen has received are not known without its journal",
            ) from None
    except OSError as error:
        raise BadInput(journal, f"cannot be read: {error.strerror}") from None
    history = History.of(entries)
    if entries and history.run != manifest.run:
        raise BadInput(
            journal,
            f"belongs to run {history.run}, not to {manifest.run}; put the journal of this run "
            "beside its file",
        )
    return history, damaged


def _wait_until_ended(path: Path, notify: Callable[[str], None] | None) -> None:
    """Wait until recorder and guardian of a run that was just killed have ended."""
    waits: tuple[tuple[str, Callable[[Path], bool], float], ...] = (
        ("its recorder", is_written, RECORDER_LEAVES_S),
        ("its guardian, which makes beam and heater safe", is_guarded, GUARDIAN_LEAVES_S),
    )
    for who, there, limit_s in waits:
        end = time.monotonic() + limit_s
        if there(path) and notify is not None:
            notify(f"{path.name}: waiting for {who}")
        while there(path):
            if time.monotonic() > end:
                raise BadInput(str(path), f"its run is still under way: {who} is running")
            time.sleep(0.05)


def rig_of_run(interrupted: InterruptedRun) -> tuple[Rig, str]:
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


def recipe_of(interrupted: InterruptedRun) -> Recipe:
    """Recipe of an interrupted run, with the pipeline that the run began with.

    A pipeline that begins with another step in this version has no room in the file.

    Raises
    ------
    BadInput
        If it is not a valid recipe for this version.
    """
    manifest = interrupted.manifest
    recipe = load_model(Recipe, manifest.recipe_text, f"the recipe in {interrupted.path}")
    steps = [AnalysisStep.model_validate(step) for step in manifest.analysis]
    return recipe.model_copy(update={"analysis": steps})


def same_recipe(interrupted: InterruptedRun, text: str, name: str) -> None:
    """Check that a recipe is that of an interrupted run.

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
    was = f"which has '{there[a].strip()}'" if a < len(there) else "which ends before this line"
    raise BadInput(
        f"{name}:{b + 1}",
        f"differs from the recipe in {interrupted.path}, {was}. A run is resumed with the "
        f"recipe that it began with: `pyrotome run --resume {interrupted.path}`",
    )


def check_fit(interrupted: InterruptedRun, rig: Rig, plan: Plan) -> None:
    """Check that a run can be resumed with a rig.

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
                f"rig '{rig.name}': {what}",
                f"is {here!r}, but {interrupted.path} began with {there!r}",
            )
    if (plan.stacks, plan.holds) != (manifest.stacks, manifest.holds):
        raise BadInput(
            str(interrupted.path),
            "its recipe gives other frames or holds with this version than with "
            f"{manifest.software}, which made it: resume it with that version",
        )
