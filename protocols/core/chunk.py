"""One frame as a chunk of HDF5's bitshuffle+LZ4 filter: checked and decompressed.

A chunk that a detector sends goes into the file as it is. `bitshuffle.py` makes chunks; this file
loads neither HDF5 nor a compression library by being imported.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENCODING = "bslz4"
_HEADER = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")


class BadChunk(ValueError):
    """Bytes that are not a chunk of the frame that they are said to be."""


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

    @classmethod
    def stored(cls, shape: tuple[int, int], dtype: str, raw: bytes) -> Chunk:
        """A chunk as it stands in a file, without the zeros that fill its last page.

        Parameters
        ----------
        shape : tuple of int
            (rows, columns) of the frame.
        dtype : str
            Its pixel type; little-endian.
        raw : bytes
            What the file has for it. Zeros behind the last block are left out.

        Raises
        ------
        BadChunk
            If it is not a chunk of this frame, or something else stands behind its last block.
        """
        whole = cls(shape, dtype, raw)
        end = whole._end()
        if raw.count(0, end) != len(raw) - end:
            raise BadChunk(f"the chunk has {len(raw)} bytes; its blocks need {end}")
        return cls(shape, dtype, raw[:end])

    def check(self) -> None:
        """Walk along the blocks; what they hold is not looked at.

        Raises
        ------
        BadChunk
            If the lengths are not those of this frame.
        """
        end, size = self._end(), memoryview(self.raw).nbytes
        if end != size:
            raise BadChunk(f"the chunk has {size} bytes; its blocks need {end}")

    def _end(self) -> int:
        """Bytes up to the end of the last block, at most those that there are."""
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
        if at > size:
            raise BadChunk(f"the chunk has {size} bytes; its blocks need {at}")
        return at

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
        from dectris.compression import decompress

        self.check()
        kind = np.dtype(self.dtype).newbyteorder("<")
        try:
            data = decompress(bytes(self.raw), ENCODING, elem_size=kind.itemsize)
        except (ValueError, RuntimeError) as error:
            raise BadChunk(f"the chunk cannot be decompressed: {error}") from None
        if len(data) != self.frame_bytes:
            raise BadChunk(f"{len(data)} bytes came out of a frame of {self.frame_bytes}")
        return np.frombuffer(data, kind).reshape(self.shape)
