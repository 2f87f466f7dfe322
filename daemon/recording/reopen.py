"""Reopen the file of an interrupted run: what tidying removed comes back, in one edit."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...protocols.messages.manifest import Interruption, RunManifest
from ...protocols.runfile import layout
from ...protocols.runfile.nexus import add_node
from ...protocols.runfile.steering_table import steering_nodes
from ...protocols.runfile.tracking_columns import tracking_nodes
from ...protocols.runfile.tree.scout_layout import scout_nodes
from ...protocols.storage.transaction import edited

# What must not differ between the run as it began and as it is resumed. Instruments, software, the
# rig and the texts may: a repaired microscope is still the same experiment.
SAME = (
    "run", "started_ns", "sample", "beam", "detector", "value_offset", "frame_dtype", "stacks",
    "holds", "holds_before", "run_results",
)  # fmt: skip


class CannotResume(ValueError):
    """A file in which this run cannot be resumed."""


def reopen(path: Path, manifest: RunManifest, resumed: Interruption) -> RunManifest:
    """Prepare the file of an interrupted run for what comes.

    Everything that :func:`tidy` removed is there again, the status is ``running``, end time and
    reason are cleared, and the interruption stands in ``/entry/interruptions``, at its number.

    Parameters
    ----------
    path : Path
        Closed, or recovered.
    manifest : RunManifest
        Of the resumed run; it must agree with the file's in `SAME`.
    resumed : Interruption
        The time since the last record.

    Returns
    -------
    RunManifest
        The file's own, which says what there is room for.

    Raises
    ------
    CannotResume
        If the file holds another run, or one that is complete.
    OSError
        If it is missing, was left open, is open elsewhere, or cannot be written; it is as it was
        then.
    """
    with edited(path) as file:
        stored = _manifest(path, file)
        differing = [name for name in SAME if getattr(stored, name) != getattr(manifest, name)]
        if differing:
            raise CannotResume(
                f"{path} holds another run: {', '.join(differing)} "
                f"{'differ' if len(differing) > 1 else 'differs'}"
            )
        if file[layout.STATUS][()] == b"complete":
            raise CannotResume(f"{path} holds a complete run; there is nothing to resume")
        _add_missing(file, layout.tree(stored))
        _add_missing(file, steering_nodes(stored))
        _add_missing(file, tracking_nodes(stored))
        _add_missing(file, scout_nodes(stored))
        _add_missing(file, layout.interruptions())
        file[layout.STATUS][()] = b"running"
        file[layout.REASON][()] = b""
        file[layout.END_TIME][()] = b""
        row = {
            "from_ns": resumed.from_ns,
            "until_ns": resumed.until_ns,
            "hot_s": resumed.hot_s,
            "reason": layout.fit_text(resumed.reason, layout.REASON_BYTES),
        }
        count = min(file[f"{layout.INTERRUPTIONS}/{name}"].shape[0] for name in row)
        if resumed.number is not None:
            count = min(count, resumed.number - 1)
        if count:
            before_ns = int(file[f"{layout.INTERRUPTIONS}/until_ns"][count - 1])
            row["from_ns"] = min(max(resumed.from_ns, before_ns), resumed.until_ns)
        for name, value in row.items():
            column = file[f"{layout.INTERRUPTIONS}/{name}"]
            column.resize((count + 1,))
            column[count] = value
    return stored


def _manifest(path: Path, file: Any) -> RunManifest:
    if layout.MANIFEST not in file or layout.STATUS not in file:
        raise CannotResume(f"{path} is not a run file: it has no {layout.MANIFEST}")
    try:
        return RunManifest.model_validate_json(file[layout.MANIFEST][()])
    except ValidationError as error:
        raise CannotResume(
            f"{path}: its {layout.MANIFEST} is not readable: {error.errors()[0]['msg']}"
        ) from None


def _add_missing(file: Any, nodes: Iterable[layout.Node]) -> None:
    for node in nodes:
        if node.path not in file:
            add_node(file, node)
