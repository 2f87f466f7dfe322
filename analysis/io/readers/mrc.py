"""Reader of tilt series in MRC files: modes 0, 1, 2, 6, 12 and 101, as IMOD and MRC2014 say."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# mrcfile carries no types.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ....protocols.core.errors import BadInput
from .mrc_extended import ImageMetadata, axis_in_text, extended_metadata
from .tilt_stack import TiltStack, check_square

_HEADER_BYTES = 1024
_ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
_IMOD_STAMP = 1146047817
_IMOD_PLACE = 152  # of the stamp, an int of 4 bytes; its flags follow
_SIGNED, _TWO_IN_A_BYTE = 1, 16  # IMOD's flags
_FOUR_BITS = 101
_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2", _FOUR_BITS: "u1"}
_UNSUPPORTED = {3: "complex integers", 4: "complex numbers", 16: "colours"}
_MOST_PIXELS = 1 << 20  # along one side; more means that the header is none
_READABLE = ", ".join(str(mode) for mode in _MODES)


@dataclass(frozen=True)
class _Header:
    """What the header of an MRC file says."""

    fields: Any
    raw: bytes
    order: str

    @property
    def labels(self) -> str:
        """Text of all labels."""
        return "\n".join(bytes(text).decode("latin-1") for text in self.fields["label"])

    @property
    def imod_flags(self) -> int | None:
        """Flags of IMOD; None in a file of a program without IMOD's stamp."""
        stamp, flags = np.frombuffer(self.raw, f"{self.order}i4", 2, _IMOD_PLACE)
        return int(flags) if stamp == _IMOD_STAMP else None

    @property
    def packed(self) -> bool:
        """Whether one byte holds two pixels."""
        return self.fields["mode"] == _FOUR_BITS or self._halved

    @property
    def _halved(self) -> bool:
        flags = self.imod_flags
        return self.fields["mode"] == 0 and flags is not None and bool(flags & _TWO_IN_A_BYTE)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, rows, columns."""
        columns, rows, images = (int(self.fields[name]) for name in ("nx", "ny", "nz"))
        return images, rows, 2 * columns if self._halved else columns

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values; of mode 0, signed or not."""
        kind = _MODES[int(self.fields["mode"])]
        if kind == "i1":
            flags = self.imod_flags
            # Without IMOD's stamp MRC2014 says signed; a maximum above 127 says otherwise.
            above = float(self.fields["dmax"]) > 127
            signed = not above if flags is None else bool(flags & _SIGNED)
            kind = "i1" if signed and not self._halved else "u1"
        return np.dtype(f"{self.order}{kind}")


@contextmanager
def open_mrc(path: Path) -> Iterator[TiltStack]:
    """Open an MRC file; its images are read when they are asked for.

    Parameters
    ----------
    path : Path
        The file.

    Yields
    ------
    TiltStack

    Raises
    ------
    BadInput
        If it is no MRC file, is cut off, or holds what is no grey image.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = _header(path, file.read(_HEADER_BYTES), size)
            mode = int(header.fields["mode"])
            if mode not in _MODES:
                kind = _UNSUPPORTED.get(mode, "an unknown kind of pixel")
                problem = f"is MRC of mode {mode} ({kind}); readable modes: {_READABLE}"
                raise BadInput(str(path), problem)
            extended = file.read(int(header.fields["nsymbt"]))
        read = _image_reader(path, header, size)
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    images = header.shape[0]
    found = extended_metadata(header.fields, extended, images, header.order, header.labels)
    yield TiltStack(
        _form(header, found),
        header.shape,
        header.dtype,
        read,
        tilt_deg=found.tilt_deg,
        pixel_nm=_pixel_nm(path, header, found),
        voltage_kv=found.voltage_kv,
        tilt_axis_deg=(
            axis_in_text(header.labels) if found.tilt_axis_deg is None else found.tilt_axis_deg
        ),
        times=found.times,
    )


def _header(path: Path, raw: bytes, size: int) -> _Header:
    """The header in the byte order in which it makes sense."""
    from mrcfile.dtypes import HEADER_DTYPE

    if len(raw) < _HEADER_BYTES:
        raise BadInput(
            str(path), f"is not a readable MRC file: {size} bytes are shorter than the header"
        )
    for order in _ORDERS:
        fields = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order), 1)[0]
        sides = [int(fields[name]) for name in ("nx", "ny", "nz")]
        sensible = all(0 < side <= _MOST_PIXELS for side in sides) and 0 <= fields["mode"] < 256
        if sensible and 0 <= fields["nsymbt"] <= size - _HEADER_BYTES:
            return _Header(fields, raw, order)
    fields = np.frombuffer(raw, HEADER_DTYPE, 1)[0]
    columns, rows, images, mode, extended = (
        int(fields[name]) for name in ("nx", "ny", "nz", "mode", "nsymbt")
    )
    raise BadInput(
        str(path),
        f"is not a readable MRC file: its header says {images} images of {rows} x {columns} "
        f"pixels, mode {mode} and an extended header of {extended} bytes; the file has {size}",
    )


def _image_reader(path: Path, header: _Header, size: int) -> Callable[[int], NDArray[Any]]:
    images, rows, columns = header.shape
    dtype = header.dtype
    row_bytes = (columns + 1) // 2 if header.packed else columns * dtype.itemsize
    start = _HEADER_BYTES + int(header.fields["nsymbt"])
    needed = start + images * rows * row_bytes
    if size < needed:
        whole = max(0, size - start) // (rows * row_bytes)
        raise BadInput(
            str(path),
            f"is cut off: {images} images of {rows} x {columns} pixels in mode "
            f"{int(header.fields['mode'])} need {needed} bytes, the file has {size} "
            f"({whole} whole images); copy it again",
        )
    stored = np.memmap(path, np.uint8, "r", start, (images, rows, row_bytes))

    def read(index: int) -> NDArray[Any]:
        image = np.array(stored[index])
        if not header.packed:
            return image.view(dtype)
        pixels = np.empty((rows, 2 * row_bytes), np.uint8)
        pixels[:, ::2], pixels[:, 1::2] = image & 0xF, image >> 4  # the low half comes first
        return pixels[:, :columns]

    return read


def _form(header: _Header, found: ImageMetadata) -> str:
    mode = int(header.fields["mode"])
    form = f"MRC with {found.form}" if found.form else "MRC"
    if mode == 0 and header.dtype.kind == "u":
        return f"{form}, mode 0 without sign"
    return form if mode in {0, 1, 2, 6} else f"{form}, mode {mode}"


def _pixel_nm(path: Path, header: _Header, found: ImageMetadata) -> float | None:
    """Pixel size: of the extended header, else of the cell; nonsense is returned as it is."""
    if found.pixel_nm is not None:
        return found.pixel_nm
    sides_nm: list[float] = []
    for axis, grid in (("x", "mx"), ("y", "my")):
        length, points = float(header.fields["cella"][axis]), int(header.fields[grid])
        if length == 0:
            return None
        sides_nm.append(length / points / 10 if points else math.copysign(math.inf, length))
    # Programs write 1 A if they do not know the pixel size.
    if sides_nm[0] == 0.1:
        return None
    check_square(path, *sides_nm)
    return sides_nm[0]
