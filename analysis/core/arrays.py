"""Arrays as all steps of the analysis use them: aligned memory, binning, threads over slices."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LINE_FLOATS = 16
Floats = NDArray[np.float32]


def zeros(shape: tuple[int, ...]) -> Floats:
    """Make float32 zeros that begin with a cache line: rows that straddle two load slowly."""
    count = math.prod(shape)
    memory = np.zeros(count + _LINE_FLOATS, np.float32)
    skip = -(memory.ctypes.data // memory.itemsize) % _LINE_FLOATS
    return memory[skip : skip + count].reshape(shape)


def in_threads(work: Callable[[int], None], numbers: Iterable[int]) -> None:
    """Do independent pieces of compiled work (which hold no GIL) on every core."""
    todo = list(numbers)
    workers = min(len(todo), len(os.sched_getaffinity(0)))
    if workers <= 1:
        for number in todo:
            work(number)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="slices") as pool:
        for _ in pool.map(work, todo):
            pass


def binned(frame: NDArray[Any], binning: int) -> Floats:
    """Mean over squares of `binning` pixels; what does not fill a square is cut off evenly.

    Parameters
    ----------
    frame : ndarray
        Shape (rows, columns).
    binning : int
        Side of the squares; a shorter side of the frame is averaged whole.

    Returns
    -------
    ndarray
        Float32, shape (max(1, rows // binning), max(1, columns // binning)). Cutting both ends
        keeps the middle of the frame, where the tilt axis is, in the middle.
    """
    rows, columns = frame.shape
    tall, wide = min(binning, rows), min(binning, columns)
    top, left = (rows % tall) // 2, (columns % wide) // 2
    part = frame[top : top + rows // tall * tall, left : left + columns // wide * wide]
    squares = part.reshape(rows // tall, tall, columns // wide, wide)
    return squares.mean(axis=(1, 3), dtype=np.float32)


def checked_series(
    images: NDArray[Any], tilt_deg: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Images and angles that belong together.

    Raises
    ------
    ValueError
        If they differ in number, or hold something that is not finite.
    """
    tilts = np.asarray(tilt_deg, np.float64)
    if images.ndim != 3 or images.size == 0:
        raise ValueError(f"images of shape {images.shape}; (angles, rows, columns) is needed")
    if tilts.shape != (len(images),):
        raise ValueError(
            f"{len(images)} images but {tilts.size} tilt angles; each image needs its own"
        )
    if not np.isfinite(tilts).all():
        raise ValueError("a tilt angle is not a finite number; leave that image out")
    if not np.isfinite(images).all():
        bad = int(np.flatnonzero(~np.isfinite(images).all(axis=(1, 2)))[0])
        raise ValueError(f"image {bad} holds NaN or infinity; leave that image out")
    return images, tilts
