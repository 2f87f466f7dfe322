"""Superblocks are read, closed and written as HDF5 writes them."""

from __future__ import annotations

import io

import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.protocols.storage import superblock
from pyrotome.protocols.storage.superblock import BadSuperblock, Superblock, lookup3

addresses = st.integers(0, (1 << 64) - 1)
blocks = st.builds(
    Superblock,
    version=st.sampled_from([2, 3]),
    flags=st.integers(0, 255),
    base=addresses,
    extension=addresses,
    end=addresses,
    root=addresses,
)


def test_the_checksum_is_that_of_its_author() -> None:
    # From the self-test `driver5` at the end of lookup3.c.
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"", 0xDEADBEEF) == 0xBD5B7DDE
    assert lookup3(b"Four score and seven years ago") == 0x17770551
    assert lookup3(b"Four score and seven years ago", 1) == 0xCD628161


@given(blocks)
def test_what_is_written_is_read(block: Superblock) -> None:
    raw = block.pack()
    assert len(raw) == superblock.SIZE
    assert superblock.parse(raw + b"what follows") == block


@given(blocks, st.integers(0, superblock.SIZE * 8 - 1))
def test_no_flipped_bit_goes_unnoticed(block: Superblock, bit: int) -> None:
    raw = bytearray(block.pack())
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadSuperblock):
        superblock.parse(bytes(raw))


@given(st.binary(max_size=100) | st.binary(max_size=60).map(superblock.SIGNATURE.__add__))
def test_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(BadSuperblock):
        superblock.parse(raw)


@given(blocks, st.integers(0, 1 << 60))
def test_closing_gives_nothing_away(block: Superblock, size: int) -> None:
    closed = block.closed(size)
    assert not closed.left_open
    assert closed.end >= block.end
    assert closed.base + closed.end >= min(size, block.base + closed.end)
    assert closed.closed(size) == closed
    assert (closed.version, closed.base, closed.root, closed.extension) == (
        block.version, block.base, block.root, block.extension,
    )  # fmt: skip


@pytest.mark.parametrize(("low", "version"), [("v108", 2), ("v110", 3), ("latest", 3)])
def test_hdf5_writes_the_same(low: str, version: int) -> None:
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver=(low, "latest")) as file:
        file["a"] = 5
    raw = memory.getvalue()
    block = superblock.parse(raw)
    assert block.pack() == raw[: superblock.SIZE]
    assert (block.version, block.flags, block.base, block.end) == (version, 0, 0, len(raw))


def test_a_file_marked_as_open_opens_again(tmp_path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file["a"] = 5
    raw = path.read_bytes()
    block = superblock.parse(raw)
    left = Superblock(3, superblock.OPEN_FOR_WRITING | superblock.OPEN_FOR_SWMR, 0,
                      block.extension, block.end - 8, block.root)  # fmt: skip
    path.write_bytes(left.pack() + raw[superblock.SIZE :])
    with pytest.raises(OSError, match="already open"):
        h5py.File(path, "r")
    path.write_bytes(left.closed(len(raw)).pack() + raw[superblock.SIZE :])
    with h5py.File(path, "r+") as file:
        assert file["a"][()] == 5
