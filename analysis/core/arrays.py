"""Arrays as the whole analysis uses them: aligned memory, binning, threads over slices."""

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
    """Make an array of zeros that begins at a cache line.

    Rows that straddle two cache lines load slowly.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.

    Returns
    -------
    ndarray
        Float32, C-contiguous, aligned to 64 bytes.

    Examples
    --------
    >>> zeros((2, 3)).ctypes.data % 64
    0
    """
    count = math.prod(shape)
    memory = np.zeros(count + _LINE_FLOATS, np.float32)
    skip = -(memory.ctypes.data // memory.itemsize) % _LINE_FLOATS
    return memory[skip : skip + count].reshape(shape)


def in_threads(work: Callable[[int], None], numbers: Iterable[int]) -> None:
    """Call a function for each number, on every core this process may use.

    Parameters
    ----------
    work : callable
        Called once with each number; compiled code that releases the GIL. An exception ends the
        call and is raised here.
    numbers : iterable of int
        Numbers of independent pieces of work, for example blocks of slices.

    Examples
    --------
    >>> squares = [0, 0, 0]
    >>> in_threads(lambda n: squares.__setitem__(n, n * n), range(3))
    >>> squares
    [0, 1, 4]
    """
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
    """Average a frame over squares of pixels.

    Pixels that do not fill a square are cut off evenly at both ends, so that the centre of the
    frame, where the tilt axis is, stays in the centre.

    Parameters
    ----------
    frame : ndarray
        Shape (rows, columns).
    binning : int
        Side of the squares in pixels. A side of the frame that is shorter is averaged whole.

    Returns
    -------
    ndarray
        Float32, shape (max(1, rows // binning), max(1, columns // binning)), in the frame's unit.

    Examples
    --------
    >>> import numpy as np
    >>> binned(np.arange(10.0).reshape(2, 5), 2)
    array([[3., 5.]], dtype=float32)
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
    """Check that images and tilt angles belong together.

    Parameters
    ----------
    images : ndarray
        Shape (angles, rows, columns).
    tilt_deg : ndarray
        Angles in degrees, shape (angles,).

    Returns
    -------
    images : ndarray
        The images as given.
    tilt_deg : ndarray
        The angles as float64.

    Raises
    ------
    ValueError
        If they differ in number, or a value is NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> images, tilts = checked_series(np.ones((2, 4, 4)), np.array([-10, 10]))
    >>> tilts
    array([-10.,  10.])
    """
    tilts = np.asarray(tilt_deg, np.float64)
    if images.ndim != 3 or images.size == 0:
        raise ValueError(
            f"the images have the shape {images.shape}; (angles, rows, columns) is needed"
        )
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
