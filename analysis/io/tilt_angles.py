"""Tilt angles in text files of other programs, and what angles cannot be those of a series."""

from __future__ import annotations

import codecs
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput
from .mdoc import Mdoc, read_mdoc

_EXPECTED = "one angle in deg per line is expected"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # Windows programs begin their files with a byte order mark
_MOST_DEG = 360
_ROUND_DEG = 0.05
_FEW = 3  # fewer angles do not tell radians from degrees


@dataclass(frozen=True)
class TiltFile:
    """What a file of angles says.

    Attributes
    ----------
    tilt_deg : ndarray
        Float64, shape (angles,).
    mdoc : Mdoc or None
        The rest of it, if it is one of SerialEM's.
    """

    tilt_deg: NDArray[np.float64]
    mdoc: Mdoc | None = None


def read_tilt_file(path: Path) -> TiltFile:
    """Read tilt angles from a list (``.rawtlt``, ``.tlt``, ``.txt``) or from an ``.mdoc``.

    Parameters
    ----------
    path : Path
        A list has one angle in degrees per line; ``#`` begins a comment.

    Returns
    -------
    TiltFile

    Raises
    ------
    BadInput
        If the file is missing, a line is not an angle, or the angles cannot be those of a series.
    """
    text = _text(path)
    if path.suffix.lower() == ".mdoc":
        mdoc = read_mdoc(path, text)
        check_angles(str(path), mdoc.tilt_deg)
        return TiltFile(mdoc.tilt_deg, mdoc)
    return TiltFile(_listed(path, text))


def read_tilts(path: Path) -> NDArray[np.float64]:
    """Read the tilt angles of a list or of an ``.mdoc``.

    Parameters
    ----------
    path : Path
        As for `read_tilt_file`.

    Returns
    -------
    ndarray
        Float64, shape (angles,).

    Raises
    ------
    BadInput
        As `read_tilt_file`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "series.rawtlt"
    ...     with path.open("w") as file:
    ...         print("# measured", -2.0, 0.0, sep=chr(10), file=file)
    ...     read_tilts(path).tolist()
    [-2.0, 0.0]
    """
    return read_tilt_file(path).tilt_deg


def check_angles(where: str, tilt_deg: NDArray[np.float64]) -> None:
    """Refuse angles that cannot be those of a tilt series in degrees.

    Parameters
    ----------
    where : str
        File, for the message.
    tilt_deg : ndarray of shape (images,)
        The angles; those that are not finite are left to others.

    Raises
    ------
    BadInput
        If one is beyond 360 deg, all are the same, or they seem to be radians.
    """
    known = tilt_deg[np.isfinite(tilt_deg)]
    if not known.size:
        return
    far = np.flatnonzero(np.abs(tilt_deg) > _MOST_DEG)
    if far.size:
        raise BadInput(
            where,
            f"angle {far[0]} (the first is 0) is {tilt_deg[far[0]]:g} deg; "
            f"angles from -{_MOST_DEG} to {_MOST_DEG} deg are expected",
        )
    low, high = float(known.min()), float(known.max())
    if known.size > 1 and low == high:
        raise BadInput(
            where,
            f"all {known.size} angles are {low:g} deg; a tilt series has different angles",
        )
    if known.size >= _FEW and max(-low, high) <= math.pi / 2 and not _are_round(known):
        raise BadInput(
            where,
            f"the {known.size} angles run from {low:g} to {high:g}, which seem to be radians "
            f"(in deg: {math.degrees(low):g} to {math.degrees(high):g}); give them in deg",
        )


def _are_round(angles: NDArray[np.float64]) -> bool:
    """Whether they are steps that a person would choose for such a narrow series in degrees."""
    steps = angles / _ROUND_DEG
    return bool(np.abs(steps - np.rint(steps)).max() < 1e-3)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    if encoding == "utf-16" and len(raw) < 4:
        raise BadInput(str(path), f"is not text; {_EXPECTED}")
    try:
        # An .mdoc may hold a person's notes in any code page; its numbers are ASCII.
        return raw.decode(encoding, "replace" if path.suffix.lower() == ".mdoc" else "strict")
    except UnicodeDecodeError:
        raise BadInput(str(path), f"is not text; {_EXPECTED}") from None


def _listed(path: Path, text: str) -> NDArray[np.float64]:
    lines = text.splitlines()
    rows = {n: line.partition("#")[0].replace(",", " ").split() for n, line in enumerate(lines, 1)}
    rows = {number: words for number, words in rows.items() if words}
    angles: list[float] = []
    for number, words in rows.items():
        if len(words) > 1 and len(rows) > 1:
            raise BadInput(f"{path}:{number}", f"'{' '.join(words)}' is not one angle; {_EXPECTED}")
        for word in words:
            try:
                angles.append(float(word))
            except ValueError:
                angles.append(math.nan)
            if not math.isfinite(angles[-1]):
                raise BadInput(f"{path}:{number}", f"'{word}' is not an angle; {_EXPECTED}")
            if abs(angles[-1]) > _MOST_DEG:
                raise BadInput(
                    f"{path}:{number}",
                    f"'{word}' is beyond {_MOST_DEG} deg; {_EXPECTED}",
                )
    if not angles:
        raise BadInput(str(path), f"is empty; {_EXPECTED}")
    tilt_deg = np.array(angles, np.float64)
    check_angles(str(path), tilt_deg)
    return tilt_deg
