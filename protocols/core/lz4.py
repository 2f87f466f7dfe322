"""LZ4 blocks: compressed and undone by the library that comes with hdf5plugin.

A block carries neither its own length nor that of what it holds; both travel beside it. The
container of HDF5's LZ4 filter puts them before it.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from pathlib import Path

import hdf5plugin
import numpy as np
from dectris.compression import decompress
from numpy.typing import NDArray

MAX_BYTES = 0x7E000000
_HEADER = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")


class BadBlock(ValueError):
    """Bytes that are not the block they are said to be."""


def compress_block(data: bytes | memoryview) -> bytes:
    """One block.

    Raises
    ------
    RuntimeError
        If the library is not there.
    """
    library = _library()
    source = np.frombuffer(data, np.uint8)
    room = np.empty(int(library.LZ4_compressBound(source.size)), np.uint8)
    count = int(
        library.LZ4_compress_default(source.ctypes.data, room.ctypes.data, source.size, room.size)
    )
    return room[:count].tobytes()


def decompress_block(raw: bytes | memoryview, size: int) -> NDArray[np.uint8]:
    """What a block holds.

    Parameters
    ----------
    raw : bytes-like
        The block.
    size : int
        Bytes that it holds.

    Raises
    ------
    BadBlock
        If it holds another number of bytes, or cannot be undone.
    RuntimeError
        If the library is not there.
    """
    source = np.frombuffer(raw, np.uint8)
    if not 0 < size <= MAX_BYTES or not 0 < source.size <= MAX_BYTES:
        raise BadBlock(f"an LZ4 block of {source.size} bytes for {size}")
    data = np.empty(size, np.uint8)
    count = int(
        _library().LZ4_decompress_safe(source.ctypes.data, data.ctypes.data, source.size, size)
    )
    if count != size:
        raise BadBlock(f"the LZ4 block gives {count} bytes instead of {size}")
    return data


def compress_hdf5(data: bytes | memoryview) -> bytes:
    """One block in the container of HDF5's LZ4 filter (32004)."""
    size = memoryview(data).nbytes
    block = compress_block(data)
    if len(block) >= size:
        block = bytes(data)  # the filter's sign for a block that is not compressed: full length
    return _HEADER.pack(size, size) + _LENGTH.pack(len(block)) + block


def decompress_hdf5(raw: bytes | memoryview, size: int) -> NDArray[np.uint8]:
    """What the container of HDF5's LZ4 filter holds; raises BadBlock if not `size` bytes."""
    if memoryview(raw).nbytes < _HEADER.size or _HEADER.unpack_from(raw)[0] != size:
        raise BadBlock(f"the LZ4 container is not one of {size} bytes")
    try:
        data = decompress(bytes(raw), "lz4")
    except (ValueError, RuntimeError) as error:
        raise BadBlock(f"the LZ4 container cannot be undone: {error}") from None
    if len(data) != size:
        raise BadBlock(f"the LZ4 container gives {len(data)} bytes instead of {size}")
    return np.frombuffer(data, np.uint8)


@cache
def _library() -> ctypes.CDLL:
    # The bitshuffle filter has LZ4 inside, and offers it.
    for path in Path(hdf5plugin.PLUGIN_PATH).iterdir():
        if path.name.startswith(("libh5bshuf.", "libh5lz4.")):
            try:
                library = ctypes.CDLL(str(path))
                bound = library.LZ4_compressBound
                work, undo = library.LZ4_compress_default, library.LZ4_decompress_safe
            except (OSError, AttributeError):
                continue
            bound.argtypes, bound.restype = [ctypes.c_int], ctypes.c_int
            for function in (work, undo):
                function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
                function.restype = ctypes.c_int
            return library
    raise RuntimeError("no library of hdf5plugin offers LZ4")
