"""Bridge gaps in images by the smoothest surface that continues both of their banks."""
# scipy.sparse is untyped here.
# pyright: basic, reportMissingTypeStubs=false, reportAttributeAccessIssue=false

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_cdt
from scipy.sparse import csc_array, csr_array
from scipy.sparse.linalg import splu

from .arrays import Floats

# Over gaps much wider than this the surface is stretched flat, so that noise of the banks does not
# grow into hills.
_STIFF_PX = 6.0
# Pixels further from any measured one are not bridged, and none where more than this many would be.
_REACH_PX, _MOST = 24, 200_000
_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_MASKS_KEPT = 4


def bridge(image: Floats, missing: NDArray[np.bool_]) -> None:
    """Replace missing pixels, in place, by a thin plate under tension.

    The plate passes through the measured pixels beside a gap with their slope, and has the least
    sum of squared Laplacians and, weighted by 1 / (6 px)^2, of squared slopes (Smith and Wessel,
    Geophysics 55, 293, 1990). Of a gap four pixels wide across particles it leaves half of the
    error that means of the banks leave.

    Parameters
    ----------
    image : ndarray
        Float32, shape (rows, columns). Pixels further than 24 px from any measured one keep the
        value that they have, and so do all where more than 200,000 are missing.
    missing : ndarray of bool
        Same shape.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(48, dtype=np.float32).reshape(6, 8)
    >>> missing = np.zeros((6, 8), bool)
    >>> missing[2:4] = True
    >>> image[missing] = 0
    >>> bridge(image, missing)
    >>> image[:, 3].round().tolist()
    [3.0, 11.0, 19.0, 27.0, 35.0, 43.0]
    """
    if not missing.any() or missing.all():
        return
    plate = _plate(missing.shape, np.packbits(missing).tobytes())
    if plate is not None:
        plate.lay(image)


class _Plate:
    """The equations of one mask, factorised."""

    def __init__(self, near: NDArray[np.bool_]) -> None:
        shape = near.shape
        self._places = np.flatnonzero(near)
        # Laplacians that a missing pixel enters; at the border they lack what lies beyond.
        touched = np.flatnonzero(binary_dilation(near))
        row, column = np.unravel_index(touched, shape)
        centre = np.zeros(touched.size)
        entries: list[tuple[Any, Any, Any]] = []
        for down, along in _NEIGHBOURS:
            r, c = row + down, column + along
            inside = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
            ones = np.ones(int(inside.sum()))
            entries.append((np.flatnonzero(inside), (r * shape[1] + c)[inside], ones))
            centre -= inside
        entries.append((np.arange(touched.size), touched, centre))
        rows, pixels, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
        used, index = np.unique(pixels, return_inverse=True)
        laplacian = csr_array((values, (rows, index)), shape=(touched.size, used.size))
        unknown = near.ravel()[used]
        own = laplacian[np.searchsorted(touched, self._places)]
        self._used = used[~unknown]
        here, there = np.flatnonzero(unknown), np.flatnonzero(~unknown)
        slack = 1 / _STIFF_PX**2
        bent = laplacian[:, here].T
        self._beside = csr_array(bent @ laplacian[:, there] - slack * own[:, there])
        inner = csc_array(bent @ laplacian[:, here] - slack * own[:, here])
        self._factors = splu(inner, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})

    def lay(self, image: Floats) -> None:
        """Put the plate into the missing pixels of an image."""
        known = image.ravel()[self._used].astype(np.float64)
        image.flat[self._places] = self._factors.solve(-(self._beside @ known)).astype(np.float32)


@lru_cache(maxsize=_MASKS_KEPT)
def _plate(shape: tuple[int, int], packed: bytes) -> _Plate | None:
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=shape[0] * shape[1])
    missing = bits.reshape(shape).astype(np.bool_)
    away_px = np.asarray(distance_transform_cdt(missing, "chessboard"))
    near = missing & (away_px <= _REACH_PX)
    return _Plate(near) if 0 < np.count_nonzero(near) <= _MOST else None
