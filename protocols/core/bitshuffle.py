"""Frames as chunks of HDF5's bitshuffle+LZ4 filter: made, checked, and undone.

A chunk that a detector sends goes into the file as it is. One of our own is made faster than HDF5
has it done: it copies each chunk and allocates for it anew before its filter runs; calling the
filter's library ourselves, into one buffer that is used again, gives the same bytes in about half
the time.
"""

from __future__ import annotations

import ctypes
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hdf5plugin
import numpy as np
from dectris.compression import decompress
from numpy.typing import NDArray

ENCODING = "bslz4"
_KEEP = 8
_HEADER = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")


class BadChunk(ValueError):
    """Bytes that are no chunk of the frame that they are said to be."""


@dataclass(frozen=True)
class Chunk:
    """One frame, compressed.

    Attributes
    ----------
    shape : tuple of int
        (rows, columns) of the frame.
    dtype : str
        Its pixel type, such as ``uint16``; little-endian.
    raw : bytes-like
        Header (uncompressed bytes, 8, and bytes in a block, 4, both big-endian), then for each
        block its compressed length (4, big-endian) and that many bytes; the rest of the frame that
        fills no 8 elements follows as it is.
    """

    shape: tuple[int, int]
    dtype: str
    raw: bytes | memoryview

    @property
    def frame_bytes(self) -> int:
        """Size of the frame, uncompressed."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def check(self) -> None:
        """Walk along the blocks; what they hold is not looked at.

        Raises
        ------
        BadChunk
            If the lengths are not those of this frame.
        """
        raw, size = self.raw, memoryview(self.raw).nbytes
        if size < _HEADER.size:
            raise BadChunk(f"a chunk of {size} bytes has no header")
        frame_bytes, block_bytes = _HEADER.unpack_from(raw)
        if frame_bytes != self.frame_bytes:
            raise BadChunk(
                f"the chunk is of a frame of {frame_bytes} bytes; {self.shape[0]} x "
                f"{self.shape[1]} pixels of {self.dtype} have {self.frame_bytes}"
            )
        element = np.dtype(self.dtype).itemsize
        if block_bytes == 0 or block_bytes % (8 * element):
            raise BadChunk(f"blocks of {block_bytes} bytes are none of {self.dtype}")
        # Blocks shrink to whole groups of eight elements at the end.
        whole, rest = divmod(frame_bytes, block_bytes)
        blocks = whole + (rest >= 8 * element)
        at = _HEADER.size
        for _ in range(blocks):
            if at + _LENGTH.size > size:
                raise BadChunk(f"the chunk ends after {size} bytes, before its last block")
            at += _LENGTH.size + _LENGTH.unpack_from(raw, at)[0]
        at += rest % (8 * element)
        if at != size:
            raise BadChunk(f"the chunk has {size} bytes; its blocks need {at}")

    def decompress(self) -> NDArray[Any]:
        """The frame.

        Returns
        -------
        ndarray
            (rows, columns), little-endian.

        Raises
        ------
        BadChunk
            If it cannot be decompressed.
        """
        self.check()
        kind = np.dtype(self.dtype).newbyteorder("<")
        try:
            data = decompress(bytes(self.raw), "bslz4", elem_size=kind.itemsize)
        except (ValueError, RuntimeError) as error:
            raise BadChunk(f"the chunk cannot be decompressed: {error}") from None
        if len(data) != self.frame_bytes:
            raise BadChunk(f"{len(data)} bytes came out of a frame of {self.frame_bytes}")
        return np.frombuffer(data, kind).reshape(self.shape)


class Bitshuffle:
    """The compressor and its buffers; for any number of threads, since it frees the interpreter.

    Attributes
    ----------
    available : bool
        False where the library does not offer the functions; then HDF5 must run the filter.
    """

    def __init__(self) -> None:
        self._library = _load()
        self._free: list[NDArray[np.uint8]] = []

    @property
    def available(self) -> bool:
        """Whether `compress` can be used."""
        return self._library is not None

    def compress(self, frame: NDArray[Any]) -> NDArray[np.uint8]:
        """One chunk of filter 32008 with the options (0, 2).

        Parameters
        ----------
        frame : ndarray
            C-contiguous, little-endian.

        Returns
        -------
        ndarray of uint8
            Header (uncompressed bytes, block size; big-endian, as the bitshuffle filter writes
            it) and compressed blocks; `release` gives it back when it is no longer needed.

        Raises
        ------
        RuntimeError
            If the library is not there or reports an error.
        """
        library = self._library
        if library is None:
            raise RuntimeError("the bitshuffle library offers no compressor")
        size = frame.itemsize
        block = int(library.bshuf_default_block_size(size))
        needed = 12 + int(library.bshuf_compress_lz4_bound(frame.size, size, block))
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(0, np.uint8)
        if buffer.nbytes < needed:
            buffer = np.empty(needed, np.uint8)
        buffer[:12] = np.frombuffer(struct.pack(">QI", frame.nbytes, block * size), np.uint8)
        count = int(
            library.bshuf_compress_lz4(
                frame.ctypes.data, buffer.ctypes.data + 12, frame.size, size, block
            )
        )
        if count < 0:
            raise RuntimeError(f"bitshuffle reports error {count}")
        return buffer[: 12 + count]

    def release(self, chunk: NDArray[np.uint8]) -> None:
        """Let the buffer of a chunk be used for another frame."""
        if isinstance(chunk.base, np.ndarray) and len(self._free) < _KEEP:
            self._free.append(chunk.base)


def _load() -> ctypes.CDLL | None:
    names = (p for p in Path(hdf5plugin.PLUGIN_PATH).iterdir() if p.name.startswith("libh5bshuf."))
    for name in names:
        try:
            library = ctypes.CDLL(str(name))
            bound, work = library.bshuf_compress_lz4_bound, library.bshuf_compress_lz4
            block = library.bshuf_default_block_size
        except (OSError, AttributeError):
            continue
        size = ctypes.c_size_t
        block.argtypes, block.restype = [size], size
        bound.argtypes, bound.restype = [size, size, size], size
        work.argtypes = [ctypes.c_void_p, ctypes.c_void_p, size, size, size]
        work.restype = ctypes.c_int64
        return library
    return None
