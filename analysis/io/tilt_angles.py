"""Tilt angles in text files of other programs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput


def read_tilts(path: Path) -> NDArray[np.float64]:
    """Read tilt angles from a text file (``.rawtlt``, ``.tlt``, ``.txt``).

    Parameters
    ----------
    path : Path
        Text with one angle in degrees per line; ``#`` begins a comment.

    Returns
    -------
    ndarray
        Float64, shape (angles,).

    Raises
    ------
    BadInput
        If the file is missing or a line is not an angle.

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
    expected = "one angle in deg per line is expected"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except UnicodeDecodeError:
        raise BadInput(str(path), f"is not text; {expected}") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    rows = {n: line.partition("#")[0].replace(",", " ").split() for n, line in enumerate(lines, 1)}
    rows = {number: words for number, words in rows.items() if words}
    angles: list[float] = []
    for number, words in rows.items():
        if len(words) > 1 and len(rows) > 1:
            raise BadInput(f"{path}:{number}", f"'{' '.join(words)}' is not one angle; {expected}")
        for word in words:
            try:
                angles.append(float(word))
            except ValueError:
                angles.append(math.nan)
            if not math.isfinite(angles[-1]):
                raise BadInput(f"{path}:{number}", f"'{word}' is not an angle; {expected}")
    if not angles:
        raise BadInput(str(path), f"is empty; {expected}")
    return np.array(angles, np.float64)
