"""Make the file of a killed run readable: ``pyrotome recover``, and what resuming begins with.

A process of its own looks at the file and prepares the repair (`examination.py`), since HDF5 may
crash or hang on damaged files. Only when that has opened and read the repaired file in memory are
its changes written here, by a redo file: killed at any moment, it can be begun again.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ...protocols.core.errors import BadInput
from ...protocols.messages.manifest import RunManifest
from ...protocols.runfile.nexus import clear_unfinished
from ...protocols.storage.redo_log import redo_path, replay_redo
from ...protocols.storage.transaction import locked
from ...protocols.storage.writer_lock import is_written
from .examination import Examination

_BASE_LIMIT_S = 120.0
_SLOWEST_BYTES_PER_S = 10e6


@dataclass(frozen=True)
class Recovered:
    """A run file that can be read now.

    Attributes
    ----------
    path : Path
        The file.
    repaired : bool
        Whether it had to be changed.
    status : str
        How its run ended; ``interrupted`` where it was killed.
    manifest : RunManifest or None
        What was to be recorded; None for an import.
    last_ns : int
        Latest moment recorded, UTC nanoseconds on the experiment's clock.
    image_keys : dict of ndarray of int32
        Per stack, `layout.key_of_recorded` for each frame that is there, as its ``image_key``.
    done : tuple of str
        What was changed, in words.
    lost : tuple of str
        What cannot be read any more, in words.
    report : dict
        As ``inspect --json``.
    """

    path: Path
    repaired: bool
    status: str
    manifest: RunManifest | None
    last_ns: int
    image_keys: dict[str, NDArray[np.int32]]
    done: tuple[str, ...]
    lost: tuple[str, ...]
    report: dict[str, Any]


def recover(path: Path, limit_s: float | None = None) -> Recovered:
    """Make a run file readable; harmless when repeated, and a healthy file is not touched.

    Parameters
    ----------
    path : Path
        A file whose run is over or was killed.
    limit_s : float, optional
        Longest time to look at it; else by its size.

    Raises
    ------
    BadInput
        If it is being written, cannot be written, is not a run file, or is damaged beyond help. The
        file is unchanged then.
    """
    size = _size(path)
    if limit_s is None:
        limit_s = _BASE_LIMIT_S + size / _SLOWEST_BYTES_PER_S
    done: list[str] = []
    try:
        with locked(path) as fd:
            if is_written(path):
                raise BadInput(str(path), "is being written by a run in progress")
            replayed = replay_redo(path, fd)
            done += [replayed] if replayed else []
            found = _examined(path, limit_s, repair=True)
            if found.done and replay_redo(path, fd) is None:
                raise BadInput(str(path), "its repair could not be prepared")
            if left := clear_unfinished(path):
                done.append(f"deleted {left} files that were never finished")
    except OSError as error:
        if isinstance(error, BlockingIOError) or error.errno in (errno.EACCES, errno.EROFS):
            found = _as_it_is(path, limit_s, error)
        else:
            raise BadInput(str(path), f"cannot be recovered: {error}") from None
    done += found.done
    return Recovered(
        path,
        bool(done),
        found.status,
        None if found.manifest is None else RunManifest.model_validate_json(found.manifest),
        found.last_ns,
        {name: np.array(keys, np.int32) for name, keys in found.image_keys.items()},
        tuple(done),
        tuple(found.lost),
        found.report,
    )


def _as_it_is(path: Path, limit_s: float, error: OSError) -> Examination:
    """A file that must not be written: good if there is nothing to do."""
    if redo_path(path).exists():
        raise BadInput(str(path), f"needs a repair that cannot be written: {error}") from None
    if is_written(path):
        raise BadInput(str(path), "is being written by a run in progress") from None
    found = _examined(path, limit_s, repair=False)
    if found.done:
        raise BadInput(str(path), f"needs a repair that cannot be written: {error}") from None
    return found


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            if clear_unfinished(path):
                raise BadInput(
                    str(path),
                    "no such file; its run was killed while the file was being created, and "
                    "nothing was recorded. What there was of it is deleted now",
                ) from None
        raise BadInput(str(path), "no such file") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    if not path.is_file():
        raise BadInput(str(path), "is not a file; name a run file")
    return status.st_size


def _examined(path: Path, limit_s: float, *, repair: bool) -> Examination:
    """Look at a file in a process of its own; raises BadInput if it cannot be made readable."""
    command = [sys.executable, "-m", "pyrotome.daemon.recording.examination", str(path.absolute())]
    try:
        ended = subprocess.run(
            [*command, *(["--repair"] if repair else [])],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BadInput(
            str(path),
            f"is damaged beyond help: HDF5 did not finish reading it within {limit_s:.0f} s",
        ) from None
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name
        raise BadInput(str(path), f"is damaged beyond help: HDF5 crashed on it ({name})")
    try:
        found = Examination.model_validate_json(ended.stdout)
    except ValidationError:
        words = ended.stderr.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
        raise BadInput(str(path), f"could not be examined: {words[-1]}") from None
    if found.problem is not None:
        raise BadInput(str(path), found.problem)
    return found
