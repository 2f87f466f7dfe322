"""The redo log of a run file: changes that are written whole or not at all, killed or not."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .overlay import Change, Overlay, read_at, write_at

_MAGIC = b"pyrotome redo 1\n"
_HEAD = struct.Struct("<16sQQQ")
_RANGE = struct.Struct("<QI")
_DIGEST_BYTES = hashlib.sha256().digest_size


class ForeignRedo(OSError):
    """A redo file that lies beside a file to which it does not belong."""


def redo_path(path: Path) -> Path:
    """Where the redo file of a file stands."""
    return path.with_name(path.name + ".redo")


def write_redo(path: Path, fd: int, overlay: Overlay) -> bool:
    """Write the redo file of an overlay; false if nothing has changed.

    Raises
    ------
    OSError
        If that cannot be done; no redo file is left then.
    """
    if overlay.problem is not None:
        raise overlay.problem
    changes, before = overlay.changes(), os.fstat(fd).st_size
    if not changes and overlay.size == before:
        return False
    os.fsync(fd)  # what was appended must not come after what points to it
    redo = redo_path(path)
    try:
        with redo.open("wb") as file:
            file.write(pack_redo(changes, before, overlay.size))
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path)
    except BaseException:
        redo.unlink(missing_ok=True)
        raise
    return True


def pack_redo(changes: Sequence[Change], before: int, after: int) -> bytes:
    """Contents of a redo file.

    Parameters
    ----------
    changes : sequence of Change
        Where the file changes.
    before, after : int
        Size of the file in bytes.
    """
    parts = [_HEAD.pack(_MAGIC, len(changes), before, after)]
    for change in changes:
        parts += [_RANGE.pack(change.offset, len(change.new)), change.old, change.new]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def parse_redo(data: bytes) -> tuple[list[Change], int, int] | None:
    """Changes and sizes of a redo file, as given to `pack_redo`; None if it is not whole."""
    if len(data) < _HEAD.size + _DIGEST_BYTES:
        return None
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest or not body.startswith(_MAGIC):
        return None
    _, count, before, after = _HEAD.unpack_from(body)
    changes: list[Change] = []
    at = _HEAD.size
    for _ in range(count):
        if len(body) < at + _RANGE.size:
            return None
        offset, length = _RANGE.unpack_from(body, at)
        at += _RANGE.size
        old, new = body[at : at + length], body[at + length : at + 2 * length]
        if len(new) != length:
            return None
        changes.append(Change(offset, old, new))
        at += 2 * length
    return (changes, before, after) if at == len(body) else None


def replay_redo(path: Path, fd: int) -> str | None:
    """Carry out a whole redo file, delete an unfinished one; what was done in words, or None.

    Parameters
    ----------
    path : Path
        The file beside which it stands.
    fd : int
        That file, locked.

    Raises
    ------
    ForeignRedo
        If the redo file is whole and made for a file with other contents; nothing is changed.
    OSError
        If the file cannot be written.
    """
    redo = redo_path(path)
    try:
        known = parse_redo(redo.read_bytes())
    except FileNotFoundError:
        return None
    if known is None:
        redo.unlink()
        return "deleted the notes of an edit that had not begun to change the file"
    changes, before, after = known
    size = os.fstat(fd).st_size
    for change in changes:
        there = np.frombuffer(
            read_at(fd, change.offset, len(change.new)).ljust(len(change.new), b"\0"), np.uint8
        )
        old, new = (np.frombuffer(part, np.uint8) for part in (change.old, change.new))
        if not ((there == old) | (there == new)).all():
            size = -1
    if size not in range(min(before, after), max(before, after) + 1):
        raise ForeignRedo(
            errno.EINVAL,
            f"{redo} does not belong to {path.name} as it is now; move it away to go on without it",
        )
    for change in changes:
        write_at(fd, change.offset, change.new)
    os.ftruncate(fd, after)
    os.fsync(fd)
    redo.unlink()
    return "completed an edit that had been cut short"


def _sync_folder(path: Path) -> None:
    """Let the name of a new file survive a loss of power, where the system can."""
    with contextlib.suppress(OSError):
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
