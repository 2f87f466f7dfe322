"""Reader of tilt series in numpy archives (.npz)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ....protocols.core.errors import BadInput
from .tilt_stack import TiltStack

_IMAGE_KEYS = ("images", "counts", "data", "stack", "projections")
_ANGLE_KEYS = ("tilt_deg", "angles_deg", "angles", "tilts", "rotation_angle")
_PIXEL_KEYS = ("pixel_nm", "pixel_size_nm")
_AXIS_KEYS = ("tilt_axis_deg",)


@contextmanager
def open_npz(path: Path) -> Iterator[TiltStack]:
    """Open an archive with one array of images, and angles and pixel size by name.

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
        If it cannot be read, or does not say which array holds the images.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            stacks = {name: file[name] for name in file.files if file[name].ndim == 3}
            tilts = next((file[name] for name in _ANGLE_KEYS if name in file.files), None)
            pixel = next((file[name] for name in _PIXEL_KEYS if name in file.files), None)
            axis = next((file[name] for name in _AXIS_KEYS if name in file.files), None)
            # Text among them raises a ValueError here.
            angles = None if tilts is None else np.asarray(tilts, np.float64).ravel()
            pixel_nm = None if pixel is None else float(np.ravel(pixel)[0])
            axis_deg = None if axis is None else float(np.ravel(axis)[0])
    except (OSError, ValueError, TypeError, EOFError, KeyError, IndexError) as error:
        raise BadInput(str(path), f"is not a readable npz file: {error}") from None
    except zipfile.BadZipFile as error:
        raise BadInput(str(path), f"is not a readable npz file: {error}") from None
    named = [name for name in _IMAGE_KEYS if name in stacks] or list(stacks)
    if not named or (len(stacks) > 1 and named[0] not in _IMAGE_KEYS):
        raise BadInput(
            str(path),
            f"no array with three axes has one of the names {', '.join(_IMAGE_KEYS)}; arrays with "
            f"three axes: {', '.join(stacks) or 'none'}",
        )
    data = stacks[named[0]]
    yield TiltStack(
        f"npz ({named[0]})",
        data.shape,
        data.dtype,
        lambda index: data[index],
        tilt_deg=angles,
        pixel_nm=pixel_nm,
        tilt_axis_deg=axis_deg,
    )
