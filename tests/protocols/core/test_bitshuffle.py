"""Frames as chunks of the bitshuffle filter: HDF5 reads what we make, we read what HDF5 makes."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrotome.protocols.core.bitshuffle import Bitshuffle
from pyrotome.protocols.core.chunk import ENCODING, BadChunk, Chunk
from pyrotome.protocols.messages.stream import BadMessage, Message, array_of, chunk_of

DTYPES = st.sampled_from(["uint8", "uint16", "uint32"])


def chunk_of_frame(frame: np.ndarray) -> Chunk:
    raw = bytes(Bitshuffle().compress(frame))
    return Chunk(frame.shape, frame.dtype.name, raw)


def a_frame(rows: int, columns: int, dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3.0, (rows, columns)).astype(dtype)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 90), columns=st.integers(1, 130), dtype=DTYPES, seed=st.integers(0, 9))
def test_a_frame_comes_back(rows: int, columns: int, dtype: str, seed: int) -> None:
    frame = a_frame(rows, columns, dtype, seed)
    chunk = chunk_of_frame(frame)
    chunk.check()
    back = chunk.decompress()
    assert back.dtype == frame.dtype
    np.testing.assert_array_equal(back, frame)


@pytest.mark.parametrize("shape", [(256, 256), (33, 7), (512, 515), (1, 1)])
def test_hdf5_makes_and_reads_the_same(tmp_path: Path, shape: tuple[int, int]) -> None:
    frame = a_frame(*shape)
    ours = chunk_of_frame(frame)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        filters = hdf5plugin.Bitshuffle(nelems=0, cname="lz4")
        data = file.create_dataset("d", (2, *shape), "<u2", chunks=(1, *shape), **filters)
        data[0] = frame
        data.id.write_direct_chunk((1, 0, 0), ours.raw)
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_array_equal(file["d"][1], frame)
        _, theirs = file["d"].id.read_direct_chunk((0, 0, 0))
    np.testing.assert_array_equal(Chunk(shape, "uint16", theirs).decompress(), frame)


@settings(deadline=None, max_examples=200)
@given(
    cut=st.integers(0, 3000), more=st.binary(max_size=20), at=st.integers(0, 200), byte=st.binary(
        min_size=1, max_size=1
    )
)  # fmt: skip
def test_what_was_cut_or_spoilt_is_refused_or_has_the_right_size(
    cut: int, more: bytes, at: int, byte: bytes
) -> None:
    frame = a_frame(64, 65)
    raw = bytearray(chunk_of_frame(frame).raw)
    raw[at : at + 1] = byte
    spoilt = bytes(raw[: len(raw) - cut]) + more
    try:
        back = Chunk(frame.shape, "uint16", spoilt).decompress()
    except BadChunk:
        return
    assert back.shape == frame.shape


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "has no header"),
        (b"\0" * 12, "of a frame of 0 bytes"),
        ((64 * 64 * 2).to_bytes(8, "big") + b"\0" * 4, "blocks of 0 bytes"),
        ((64 * 64 * 2).to_bytes(8, "big") + b"\0\0\0\7", "blocks of 7 bytes"),
        ((64 * 64 * 2).to_bytes(8, "big") + b"\0\0\x20\0\xff\xff\xff\xff", "its blocks need"),
    ],
)
def test_what_is_wrong_with_a_chunk_is_said(raw: bytes, problem: str) -> None:
    with pytest.raises(BadChunk, match=problem):
        Chunk((64, 64), "uint16", raw).check()


@given(st.integers(0, 5000), st.integers(3, 70), st.integers(3, 70))
def test_a_chunk_of_a_file_may_have_zeros_behind_it_and_nothing_else(
    zeros: int, rows: int, columns: int
) -> None:
    frame = a_frame(rows, columns)
    raw = bytes(chunk_of_frame(frame).raw)
    found = Chunk.stored(frame.shape, "uint16", raw + bytes(zeros))
    assert np.array_equal(found.decompress(), frame)
    with pytest.raises(BadChunk, match="its blocks need"):
        Chunk.stored(frame.shape, "uint16", raw + bytes(zeros) + b"\1")


def test_another_shape_or_type_is_refused() -> None:
    raw = chunk_of_frame(a_frame(64, 64)).raw
    with pytest.raises(BadChunk, match=r"64 x 65 pixels of uint16 have 8320"):
        Chunk((64, 65), "uint16", raw).check()
    with pytest.raises(BadChunk, match="uint32 have 16384"):
        Chunk((64, 64), "uint32", raw).check()


def test_a_message_may_carry_a_chunk() -> None:
    frame = a_frame(64, 48)
    header = {"shape": [64, 48], "dtype": "uint16", "encoding": ENCODING}
    raw = chunk_of_frame(frame).raw
    message = Message("frame/d", header, (memoryview(raw),))
    np.testing.assert_array_equal(array_of(message), frame)
    chunk = chunk_of(message)
    assert chunk is not None
    assert bytes(chunk.raw) == raw
    assert chunk_of(Message("frame/d", {"shape": [1, 1], "dtype": "uint16"}, (b"ab",))) is None
    for wrong in (
        header | {"encoding": "zip"}, header | {"shape": [64]}, header | {"shape": [64, 49]},
        header | {"dtype": "S8"}, header | {"dtype": [6]}, header | {"shape": "x"},
    ):  # fmt: skip
        with pytest.raises(BadMessage):
            array_of(Message("frame/d", wrong, (raw,)))
    with pytest.raises(BadMessage, match="payload"):
        array_of(Message("frame/d", header))


def test_a_single_number_is_an_array_without_axes() -> None:
    message = Message("result/porosity", {"shape": [], "dtype": "float64"}, (np.float64(2.5).data,))
    array = array_of(message)
    assert (array.shape, float(array)) == ((), 2.5)
    for header in ({"shape": [], "dtype": "float32"}, {"shape": [1] * 5, "dtype": "float64"}):
        with pytest.raises(BadMessage):
            array_of(Message("result/porosity", header, message.payload))
