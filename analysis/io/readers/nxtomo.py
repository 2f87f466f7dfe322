"""Reader of NXtomo entries: projections, and the mean of their dark and flat frames."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....protocols.core.errors import BadInput
from ....protocols.runfile import layout
from ....protocols.runfile.frames import read_outliers
from .tilt_stack import Floats, TiltStack, check_square, length_nm, plain_text

FLAT, DARK = 1, 2  # image_key of NXtomo


def is_nxtomo(entry: Any) -> bool:
    """Whether a group of an HDF5 file says that it follows NXtomo."""
    definition = entry.get("definition")
    return definition is not None and plain_text(definition[()]).strip() == "NXtomo"


def nxtomo_stack(path: Path, entry: Any) -> TiltStack:
    """Projections of an NXtomo entry; missing images stay missing.

    Parameters
    ----------
    path : Path
        The file, for messages.
    entry : h5py.Group
        The entry.

    Returns
    -------
    TiltStack
        With the mean of its dark and of its flat frames.

    Raises
    ------
    BadInput
        If angles, keys and images disagree in number.
    """
    detector = entry["instrument/detector"]
    data = detector["data"]
    keys = np.asarray(detector["image_key"][...]).ravel() if "image_key" in detector else None
    if keys is None:
        keys = np.zeros(len(data), np.int64)
    if keys.shape != data.shape[:1]:
        raise BadInput(str(path), f"{data.name} has {len(data)} images and {keys.size} image keys")
    used = np.flatnonzero((keys == layout.RECORDED) | (keys == layout.MISSING))
    offset, scale = (detector.get(f"encoding/value_{what}") for what in ("offset", "scale"))
    dark, flat = _mean(data, keys == DARK), _mean(data, keys == FLAT)
    kept = entry.get("references")  # of a run file
    axis = entry.attrs.get(layout.TILT_AXIS)
    return TiltStack(
        "NXtomo",
        (len(used), *data.shape[1:]),
        data.dtype,
        lambda index: np.asarray(data[used[index]]),
        tilt_deg=_angles(path, entry, len(data))[used],
        pixel_nm=_pixel_nm(path, detector),
        tilt_axis_deg=None if axis is None else float(np.ravel(axis)[0]),
        there=keys[used] == layout.RECORDED,
        value_offset=0 if offset is None else int(offset[()]),
        value_scale=1.0 if scale is None else float(scale[()]),
        outliers=read_outliers(entry.parent, entry.name.strip("/")),
        dark=dark if kept is None else _kept(kept, "dark"),
        flat=flat if kept is None else _kept(kept, "flat"),
        dark_frames=int((keys == DARK).sum()) if kept is None else _kept_frames(kept, "dark"),
        flat_frames=int((keys == FLAT).sum()) if kept is None else _kept_frames(kept, "flat"),
    )


def _angles(path: Path, entry: Any, images: int) -> Floats:
    angle = entry["sample/rotation_angle"]
    angles = np.asarray(angle[...], np.float64).ravel()
    if len(angles) != images:
        raise BadInput(str(path), f"{angle.name}: {angles.size} angles for {images} images")
    nominal = entry.get("frames/nominal_tilt")
    if nominal is not None and nominal.shape == angles.shape:
        angles = np.where(np.isfinite(angles), angles, nominal[...])
    if "rad" in plain_text(angle.attrs.get("units", "")):
        angles = np.degrees(angles)
    return angles


def _pixel_nm(path: Path, detector: Any) -> float | None:
    sides: list[float | None] = []
    for axis in "xy":
        size = detector.get(f"{axis}_pixel_size")
        if size is not None:
            unit = plain_text(size.attrs.get("units", "m"))
            sides.append(length_nm(float(np.ravel(size[()])[0]), unit))
    if not sides:
        return None
    if sides[0] is not None and sides[-1] is not None:
        check_square(path, sides[0], sides[-1])
    return sides[0]


def _mean(data: Any, which: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Mean of some images, read one by one; None if there is none."""
    places = np.flatnonzero(which)
    if not places.size:
        return None
    total = np.zeros(data.shape[1:], np.float64)
    for place in places:
        total += data[place]
    return (total / places.size).astype(np.float32)


def _kept(references: Any, name: str) -> NDArray[np.float32] | None:
    return np.asarray(references[name][...], np.float32) if name in references else None


def _kept_frames(references: Any, name: str) -> int:
    return int(references[name].attrs.get("frames", 1)) if name in references else 0
