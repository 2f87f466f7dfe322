"""Edits come about as a whole or not at all, wherever their program is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrotome.protocols.storage import overlay, superblock, transaction
from pyrotome.protocols.storage.overlay import Change, Overlay
from pyrotome.protocols.storage.redo_log import (
    ForeignRedo,
    pack_redo,
    parse_redo,
    redo_path,
    replay_redo,
)
from pyrotome.protocols.storage.transaction import LeftOpen, edited, locked

LIBVER = transaction.LIBVER


def a_file(path: Path) -> Path:
    with h5py.File(path, "w", libver=LIBVER) as file:
        file["number"] = 1
        file["table"] = np.arange(3000.0)
        file.create_group("group/in")["text"] = "hello"
        file.create_dataset("log", (0,), maxshape=(None,), chunks=(64,), dtype="f8")
    return path


def an_edit(file: Any) -> None:
    file["number"][()] = 2
    file["table"][1000:2000] = -1.0
    del file["group"]
    file["added"] = np.arange(5000)
    file["log"].resize((100,))


def contents(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: found.__setitem__(
                name, item[...].tolist() if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


@pytest.mark.parametrize("appending", [False, True])
def test_an_edit_does_what_hdf5_would_do(tmp_path: Path, appending: bool) -> None:
    path, other = a_file(tmp_path / "a.h5"), a_file(tmp_path / "b.h5")
    with edited(path, appending=appending) as file:
        an_edit(file)
    with h5py.File(other, "r+", libver=LIBVER) as file:
        an_edit(file)
    assert contents(path) == contents(other)
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_an_edit_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    path = a_file(tmp_path / "a.h5")
    before = path.read_bytes(), path.stat().st_mtime_ns
    with edited(path) as file:
        assert file["number"][()] == 1
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def killed_edit(path: Path, appending: bool, steps: int) -> bool:
    """Edit in a process that is killed in the middle of a step; whether it got that far."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = steps
    pwrite, ftruncate, unlink = os.pwrite, os.ftruncate, Path.unlink

    def step(half: Callable[[], Any] = lambda: None) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    def write(fd: int, data: Any, offset: int) -> int:
        step(lambda: pwrite(fd, memoryview(data)[: len(data) // 2], offset))
        return pwrite(fd, data, offset)

    def cut(fd: int, size: int) -> None:
        step()
        ftruncate(fd, size)

    def delete(path: Path, missing_ok: bool = False) -> None:
        step()
        unlink(path, missing_ok)

    os.pwrite, os.ftruncate, Path.unlink = write, cut, delete  # type: ignore[assignment]
    with edited(path, appending=appending) as file:
        an_edit(file)
    os._exit(0)


@pytest.mark.parametrize("appending", [False, True])
def test_killed_at_every_step(tmp_path: Path, appending: bool) -> None:
    """Every write to the file, torn in the middle, and every step between."""
    path = a_file(tmp_path / "a.h5")
    original, old = path.read_bytes(), contents(path)
    with edited(path, appending=appending) as file:
        an_edit(file)
    new = contents(path)
    outcomes: list[bool] = []
    for steps in range(1, 1000):
        path.write_bytes(original)
        if not killed_edit(path, appending, steps):
            break
        with locked(path) as fd:
            replay_redo(path, fd)
        assert not redo_path(path).exists()
        found = contents(path)
        assert found in (old, new), f"neither before nor after, killed at step {steps}"
        outcomes.append(found == new)
        with edited(path) as file:  # and it can be edited again
            file["number"][()] = 5
        assert contents(path)["number"] == 5
    assert outcomes == sorted(outcomes), "once it is done it stays done"
    assert outcomes[-1]
    assert len(outcomes) > 5


@given(
    st.lists(st.tuples(st.integers(0, 40), st.binary(min_size=1, max_size=30)), max_size=6),
    st.integers(0, 60),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_redo_file_is_carried_out_from_any_state(
    tmp_path_factory: pytest.TempPathFactory,
    writes: list[tuple[int, bytes]],
    size: int,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("redo") / "a"
    before = bytes(range(size))
    path.write_bytes(before)
    fd = os.open(path, os.O_RDWR)
    try:
        overlay = Overlay(fd, size)
        wanted = bytearray(before)
        for offset, raw in writes:
            overlay.seek(offset)
            overlay.write(raw)
            wanted.extend(bytes(max(0, offset + len(raw) - len(wanted))))
            wanted[offset : offset + len(raw)] = raw
        cut = data.draw(st.integers(0, len(wanted)))
        overlay.truncate(cut)
        del wanted[cut:]
        assert overlay.at(0, cut) == wanted
        assert path.read_bytes() == before
        redo = pack_redo(overlay.changes(), size, overlay.size)
        known = parse_redo(redo)
        assert known == (overlay.changes(), size, cut)
        for end in range(0, len(redo), 7):
            assert parse_redo(redo[:end]) is None
        # Some of it was written already when the program was killed.
        for change in overlay.changes():
            if data.draw(st.booleans()):
                part = data.draw(st.integers(0, len(change.new)))
                os.pwrite(fd, change.new[:part], change.offset)
        redo_path(path).write_bytes(redo)
        for _ in range(2):
            replay_redo(path, fd)
            assert path.read_bytes() == wanted
        assert not redo_path(path).exists()
    finally:
        os.close(fd)


def test_a_redo_file_of_another_file_harms_nothing(tmp_path: Path) -> None:
    path = a_file(tmp_path / "a.h5")
    before = path.read_bytes()
    redo = pack_redo([Change(10, b"not what is there", b"and will never be")], len(before), 5)
    redo_path(path).write_bytes(redo)
    with pytest.raises(ForeignRedo, match="does not belong"), edited(path):
        pass
    assert path.read_bytes() == before
    redo_path(path).write_bytes(redo[:-1])
    with edited(path) as file:
        assert file["number"][()] == 1
    assert path.read_bytes() == before
    assert not redo_path(path).exists()


def test_a_failed_edit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = a_file(tmp_path / "a.h5")
    before = path.read_bytes()

    def refuse(file: Any) -> None:
        assert file["number"][()] == 2
        raise ValueError("not as it must be")

    for appending in (False, True):
        with (
            pytest.raises(ValueError, match="as it must"),
            edited(path, check=refuse, appending=appending) as file,
        ):
            an_edit(file)
        with pytest.raises(ZeroDivisionError), edited(path, appending=appending) as file:
            an_edit(file)
            raise ZeroDivisionError
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_too_large_an_edit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "LIMIT_BYTES", 8 * overlay.PAGE_BYTES)
    path = a_file(tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(OSError, match="would be changed in place"), edited(path) as file:
        file["more"] = np.arange(100_000)
    assert path.read_bytes() == before
    with edited(path, appending=True) as file:
        file["more"] = np.arange(100_000)
    assert contents(path)["more"] == list(range(100_000))


def test_who_has_it_open_is_not_disturbed(tmp_path: Path) -> None:
    path = a_file(tmp_path / "a.h5")
    with (
        h5py.File(path, "r"),
        pytest.raises(BlockingIOError, match="open in another program"),
        edited(path),
    ):
        pass
    block = superblock.parse(path.read_bytes())
    marked = superblock.Superblock(3, 1, block.base, block.extension, block.end, block.root)
    path.write_bytes(marked.pack() + path.read_bytes()[superblock.SIZE :])
    with pytest.raises(LeftOpen, match="pyrotome recover"), edited(path):
        pass
