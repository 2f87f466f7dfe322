"""Reader of EMD files as Berkeley defines them (also of tomviz)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....protocols.core.errors import BadInput
from .tilt_stack import Floats, TiltStack, check_square, length_nm, plain_text


def emd_stack(path: Path, group: Any) -> TiltStack:
    """A tilt series in an EMD group; names and units identify the axes, not their order.

    Parameters
    ----------
    path : Path
        The file, for messages.
    group : h5py.Group
        With ``data`` and its ``dim1``, ``dim2``, ...

    Returns
    -------
    TiltStack

    Raises
    ------
    BadInput
        If more than one axis is of angles, or pixels are not square.
    """
    data = group["data"]
    first = 0 if "dim0" in group else 1
    axes = [
        _Axis.of(group.get(f"dim{first + axis}"), data.shape[axis]) for axis in range(data.ndim)
    ]
    turned = [number for number, axis in enumerate(axes) if axis.is_angle]
    if len(turned) > 1:
        raise BadInput(str(path), f"{group.name} has {len(turned)} axes of angles")
    values = data[...]
    if data.ndim == 2:  # a single image
        values, axes = values[np.newaxis], [_Axis(""), *axes]
        turned = []
    along = turned[0] if turned else 0
    rows, columns = (number for number in range(3) if number != along)
    # Some programs store the axes in the opposite order, x before y.
    if axes[rows].name.startswith("x") and axes[columns].name.startswith("y"):
        rows, columns = columns, rows
    images = np.transpose(values, (along, rows, columns))
    pixels = [axes[columns].pixel_nm, axes[rows].pixel_nm]
    if pixels[0] is not None and pixels[1] is not None:
        check_square(path, pixels[0], pixels[1])
    return TiltStack(
        "EMD (Berkeley)",
        images.shape,
        images.dtype,
        lambda index: np.ascontiguousarray(images[index]),
        tilt_deg=axes[along].angles_deg if turned else None,
        pixel_nm=pixels[0],
    )


@dataclass(frozen=True)
class _Axis:
    """One ``dim`` of an EMD group."""

    name: str
    is_angle: bool = False
    angles_deg: Floats | None = None
    pixel_nm: float | None = None

    @classmethod
    def of(cls, dim: Any, size: int) -> _Axis:
        """Understand it by its name and its unit."""
        if dim is None:
            return cls("")
        values = np.asarray(dim[...], np.float64).ravel()
        if values.size == 2 < size:  # an even axis may be given by its first two values
            values = values[0] + np.arange(size) * (values[1] - values[0])
        name = plain_text(dim.attrs.get("name", "")).lower()
        # "[n_m]" is how EMD 0.2 writes nm.
        units = re.sub(r"[\[\]_]", "", plain_text(dim.attrs.get("units", "")))
        if units in {"deg", "degree", "degrees", "°", "rad", "radian"} or (
            not units and re.search(r"angle|tilt|alpha", name)
        ):
            if units.startswith("rad"):
                values = np.degrees(values)
            return cls(name, True, values if values.size == size else None)
        step = abs(values[1] - values[0]) if values.size > 1 else 0.0
        return cls(name, pixel_nm=length_nm(step, units) if step != 0 else None)
