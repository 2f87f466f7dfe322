"""Reader of tilt series in TIFF files: stacks, pages written one by one, ImageJ, OME."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# tifffile carries no types.

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....protocols.core.errors import BadInput
from .tilt_stack import INSTALL_FORMATS, TiltStack, check_square, length_nm


@contextmanager
def open_tiff(path: Path) -> Iterator[TiltStack]:
    """Open a TIFF file with one image of the series on each page.

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
        If it cannot be read, holds colours, or has pages of different shapes.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            data = _images(path, file)
            pixel_nm = _pixel_nm(path, file)
    except BadInput:
        raise
    except Exception as error:  # tifffile and codecs raise many kinds on damaged files
        if not isinstance(error, OSError | ValueError | LookupError | RuntimeError | struct.error):
            raise
        raise BadInput(str(path), _refusal(str(error))) from None
    yield TiltStack("TIFF", data.shape, data.dtype, lambda index: data[index], pixel_nm=pixel_nm)


def _refusal(error: str) -> str:
    if "imagecodecs" in error:
        method = re.search(r"COMPRESSION\.(\w+)", error)
        named = f"{method.group(1)} compression" if method else "a compression"
        return f"has {named}, which needs the package imagecodecs; {INSTALL_FORMATS}"
    return f"is not a readable TIFF file: {error}"


def _images(path: Path, file: Any) -> NDArray[Any]:
    """All images, (images, rows, columns)."""
    first = file.pages[0]
    if getattr(first, "samplesperpixel", 1) > 1:
        raise BadInput(
            str(path), f"holds images of {first.samplesperpixel} colours; grey images are expected"
        )
    if len(file.series) == 1:
        data = file.series[0].asarray().squeeze()
        return data[np.newaxis] if data.ndim == 2 else data
    # Programs that append page by page leave each page a series of its own.
    shapes = [tuple(page.shape) for page in file.pages]
    if len(set(shapes)) > 1:
        other = next(index for index, shape in enumerate(shapes) if shape != shapes[0])
        raise BadInput(
            str(path),
            f"its pages differ: page 0 has shape {shapes[0]}, page {other} has {shapes[other]}; "
            "one shape is expected",
        )
    return np.stack([page.asarray() for page in file.pages])


def _pixel_nm(path: Path, file: Any) -> float | None:
    """Pixel size of ImageJ or OME metadata; the plain resolution tag is for printers."""
    sides: list[float | None] = [None, None]
    if file.is_ome:
        for place, axis in enumerate("XY"):
            size = re.search(rf'PhysicalSize{axis}="([^"]+)"', file.ome_metadata)
            unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', file.ome_metadata)
            if size:
                sides[place] = length_nm(size.group(1), unit.group(1) if unit else "um")
    elif file.is_imagej:
        unit = (file.imagej_metadata or {}).get("unit")
        for place, axis in enumerate("XY"):
            tag = file.pages[0].tags.get(f"{axis}Resolution")
            if unit and tag is not None and tag.value[0]:
                sides[place] = length_nm(tag.value[1] / tag.value[0], str(unit))
    x, y = sides
    if x is not None and y is not None:
        check_square(path, x, y)
    return x if x is not None else y
