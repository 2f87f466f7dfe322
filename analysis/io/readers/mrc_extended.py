"""What extended headers of MRC files say of each image: FEI1, FEI2, SERI, AGAR, old FEI."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# mrcfile carries no types.

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tilt_stack import Floats

# Agard's header, which FEI used before 2014: for each image integers, then floats.
_AGARD_FLOATS = 32
_TILT, _AXIS, _PIXEL_M, _VOLTAGE_V = 0, 10, 11, 13
# SerialEM's header: flags say which items each image has; bytes of each.
_SERIALEM_BYTES = {
    1: 2, 2: 6, 4: 4, 8: 2, 16: 2, 32: 4, 64: 2, 128: 4, 256: 2, 512: 4, 1024: 2,
}  # fmt: skip
_SERIALEM_TILT = 1
_NINT = 128 - 112  # place in `extra2`, which begins at byte 112
_TWICE_CONVERTED = b"4.4.0.4981"
_OLE_EPOCH = np.datetime64("1899-12-30T00:00:00.000")
_DAY_MS = 86_400_000
_EARLIEST, _LATEST = np.datetime64("1985-01-01"), np.datetime64("2200-01-01")
_AXIS_TEXT = re.compile(r"Tilt axis (?:rotation )?angle\s*=\s*([-+]?\d+(?:\.\d*)?)", re.IGNORECASE)


@dataclass(frozen=True)
class ImageMetadata:
    """What an extended header says; None where it says nothing that can be right.

    Attributes
    ----------
    form : str
        Name of the header; empty without one that is understood.
    tilt_deg : ndarray or None
        Shape (images,).
    pixel_nm, voltage_kv, tilt_axis_deg : float or None
        Of the first image.
    times : ndarray of datetime64[ms] or None
        Shape (images,), local time of the microscope.
    """

    form: str = ""
    tilt_deg: Floats | None = None
    pixel_nm: float | None = None
    voltage_kv: float | None = None
    tilt_axis_deg: float | None = None
    times: NDArray[np.datetime64] | None = None


def axis_in_text(text: str) -> float | None:
    """Direction of the tilt axis in a title of SerialEM.

    Parameters
    ----------
    text : str
        Titles, in any number of lines.

    Returns
    -------
    float or None
        In degrees; None where no title tells it.

    Examples
    --------
    >>> axis_in_text("    Tilt axis angle = 84.8, binning = 2  spot = 7")
    84.8
    """
    found = _AXIS_TEXT.search(text)
    return float(found.group(1)) if found else None


def extended_metadata(
    header: Any, raw: bytes, images: int, order: str, labels: str
) -> ImageMetadata:
    """Read the extended header of an MRC file.

    Parameters
    ----------
    header : numpy record
        The header of 1024 bytes, in the fields of mrcfile.
    raw : bytes
        The extended header.
    images : int
        How many images the file has.
    order : str
        Byte order, ``<`` or ``>``.
    labels : str
        Labels of the header.

    Returns
    -------
    ImageMetadata
        Without values for an extended header that is absent or of another program.
    """
    kind = bytes(header["exttyp"]).strip(b"\0 ").upper()
    # Two short integers before the version say how the header of each image is built.
    integers, floats = (
        int(n) for n in np.frombuffer(header["extra2"].tobytes(), f"{order}i2", 2, _NINT)
    )
    label = "fei" in labels.lower()
    if kind in {b"FEI1", b"FEI2"}:
        return _plausible(_fei(kind, raw, images, order))
    if kind == b"SERI" or (not kind and _is_serialem(integers, floats)):
        return _plausible(_serialem(integers, floats, raw, images, order))
    if kind == b"AGAR" or (not kind and label):
        return _plausible(_agard(integers, floats, raw, images, order, label))
    return ImageMetadata()


def _fei(kind: bytes, raw: bytes, images: int, order: str) -> ImageMetadata:
    from mrcfile.dtypes import get_ext_header_dtype

    dtype: Any = get_ext_header_dtype(kind, order)
    if len(raw) < dtype.itemsize:
        return ImageMetadata()
    size = int(np.frombuffer(raw, f"{order}i4", 1)[0])
    stride = size if size >= dtype.itemsize else dtype.itemsize
    if len(raw) < (images - 1) * stride + dtype.itemsize:
        return ImageMetadata()
    rows = np.array([np.frombuffer(raw, dtype, 1, image * stride)[0] for image in range(images)])
    names = list(dtype.names)

    def column(name: str) -> Floats | None:
        """Values of one field; None where its bit says that it was not set."""
        bit = names.index(name) - names.index("Bitmask 1") - 1
        mask = rows["Bitmask 1"]
        unset = (mask != 0) & (mask >> bit & 1 == 0)
        return None if unset.any() else rows[name].astype(np.float64)

    pixel, volts, axis = (column(name) for name in ("Pixel size X", "HT", "Tilt axis angle"))
    tilt = column("Alpha tilt")
    # One version of FEI's program converted its angles to degrees twice, says IMOD.
    twice = bytes(rows["Application version"][0]).strip(b"\0 ") == _TWICE_CONVERTED
    unit = np.pi / 180 if twice else 1.0
    return ImageMetadata(
        f"an {kind.decode()} extended header",
        None if tilt is None else tilt * unit,
        None if pixel is None else float(pixel[0]) * 1e9,
        None if volts is None else float(volts[0]) / 1000,
        None if axis is None else -float(axis[0]) * unit,  # sign as in IMOD's `header`
        _ole_times(column("Timestamp")),
    )


def _ole_times(days: Floats | None) -> NDArray[np.datetime64] | None:
    if days is None or not np.isfinite(days).all() or np.abs(days).max() > 1e6:
        return None
    return _OLE_EPOCH + np.rint(days * _DAY_MS).astype("timedelta64[ms]")


def _is_serialem(size: int, flags: int) -> bool:
    """Whether the size of the header of one image is what the flags add up to."""
    if not 0 < flags < 2048:
        return False
    return size == sum(count for bit, count in _SERIALEM_BYTES.items() if flags & bit)


def _serialem(size: int, flags: int, raw: bytes, images: int, order: str) -> ImageMetadata:
    form = "a SerialEM extended header"
    if not flags & _SERIALEM_TILT or size < 2 or len(raw) < (images - 1) * size + 2:
        return ImageMetadata(form)
    hundredths = [np.frombuffer(raw, f"{order}i2", 1, image * size)[0] for image in range(images)]
    return ImageMetadata(form, np.array(hundredths, np.float64) / 100)


def _agard(
    integers: int, floats: int, raw: bytes, images: int, order: str, fei: bool
) -> ImageMetadata:
    if floats <= 0 or integers < 0:
        integers, floats = 0, _AGARD_FLOATS
    size = integers + floats
    if len(raw) < images * size * 4:
        return ImageMetadata()
    rows = np.frombuffer(raw, f"{order}f4", images * size).reshape(images, size)
    rows = rows[:, integers:].astype(np.float64)
    first = [float(rows[0, place]) if place < floats else np.nan for place in range(_AGARD_FLOATS)]
    axis = first[_AXIS]
    return ImageMetadata(
        "an FEI extended header" if fei else "an Agard extended header",
        rows[:, _TILT],
        first[_PIXEL_M] * 1e9,
        first[_VOLTAGE_V] / 1000,
        -axis if fei else axis,  # FEI counts it clockwise; IMOD's `header` turns its sign
    )


def _plausible(found: ImageMetadata) -> ImageMetadata:
    """Without the values that cannot be right: a field that nobody filled in is no error."""
    tilt, pixel_nm, voltage_kv = found.tilt_deg, found.pixel_nm, found.voltage_kv
    axis, times = found.tilt_axis_deg, found.times
    if tilt is not None:
        sane = np.isfinite(tilt).all() and np.abs(tilt).max() <= 360
        tilt = tilt if sane and (np.ptp(tilt) > 0 or len(tilt) == 1) else None
    # Single precision, so that 3.36 nm stays 3.36 nm.
    if pixel_nm is not None:
        pixel_nm = float(f"{pixel_nm:.6g}") if 1e-3 < pixel_nm < 1e6 else None
    if voltage_kv is not None:
        voltage_kv = float(f"{voltage_kv:.6g}") if 1 <= voltage_kv <= 1500 else None
    # Exactly 0 stands where it is not known.
    if axis is not None and not 0 < abs(axis) <= 360:
        axis = None
    if times is not None and (times.min() < _EARLIEST or times.max() > _LATEST):
        times = None
    if times is not None and len(times) > 1 and np.ptp(times) <= np.timedelta64(0):
        times = None
    return replace(
        found, tilt_deg=tilt, pixel_nm=pixel_nm, voltage_kv=voltage_kv, tilt_axis_deg=axis,
        times=times,
    )  # fmt: skip
