"""Weights of pixels: the share of each that was measured; pixels without any are filled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, binned
from .bridging import bridge

# The coarsest level from which pixels are filled has at most this many pixels a side.
_COARSEST = 2


def checked_weights(weights: NDArray[Any] | None, shape: tuple[int, ...]) -> Floats | None:
    """Check weights against the images that they belong to.

    Parameters
    ----------
    weights : ndarray or None
        Share of each pixel that was measured, 0 to 1; None where all are 1.
    shape : tuple of int
        Shape of the images.

    Returns
    -------
    ndarray or None
        Float32; None if every pixel was measured, so that nothing is done for them.

    Raises
    ------
    ValueError
        If the shape differs from that of the images, or a weight is not a number from 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> checked_weights(np.ones((2, 2)), (2, 2)) is None
    True
    """
    if weights is None:
        return None
    if weights.shape != shape:
        raise ValueError(
            f"the weights have the shape {weights.shape}, the images {shape}; each pixel needs one"
        )
    if not bool(np.all((weights >= 0) & (weights <= 1))):
        raise ValueError(
            "a weight is not a number from 0 (not measured) to 1 (measured); check the mask"
        )
    return None if bool(np.all(weights == 1)) else np.asarray(weights, np.float32)


def every_pixel(shape: tuple[int, ...]) -> Floats:
    """Weights of images of which every pixel was measured; they take no memory.

    Examples
    --------
    >>> every_pixel((2, 2)).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    return np.broadcast_to(np.float32(1), shape)


def filled(image: NDArray[Any], weights: NDArray[Any]) -> Floats:
    """Replace the pixels of weight 0 by what their surroundings show.

    Gaps within the field (:func:`field_of`) are bridged by a thin plate under tension,
    :func:`.bridging.bridge`. Beyond it, and far from any measured pixel, the image is averaged over
    ever larger squares, by weight, until every square holds a measured pixel; each unmeasured one
    is interpolated from the finest squares that do (push and pull, Gortler et al., Proc. SIGGRAPH
    1996, 43). What a pixel of weight 0 holds has no influence.

    Parameters
    ----------
    image, weights : ndarray
        Shape (rows, columns).

    Returns
    -------
    ndarray
        Float32, shape (rows, columns); zeros if no pixel was measured.

    Examples
    --------
    >>> import numpy as np
    >>> image, weights = np.full((4, 4), 3.0), np.ones((4, 4))
    >>> image[1, 2], weights[1, 2] = 1e6, 0.0
    >>> filled(image, weights)[1].tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    missing = weights <= 0
    known = _pushed_and_pulled(image, weights, missing)
    # Beyond the outermost measured pixels there is nothing to bridge to.
    bridge(known, missing & field_of(weights))
    return known


def field_of(weights: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of the field: measured ones, and gaps between them.

    A gap has measured pixels on both sides of it, in its row or its column; what it held can be
    interpolated. Pixels that the field did not reach, because it wandered or is turned, have none
    on one side, and nothing is known of them.

    Parameters
    ----------
    weights : ndarray
        Share of each pixel that was measured, shape (rows, columns).

    Returns
    -------
    ndarray of bool
        Shape (rows, columns).

    Examples
    --------
    >>> import numpy as np
    >>> field_of(np.array([[0.0, 1.0, 0.0, 1.0, 0.0]])).tolist()
    [[False, True, True, True, False]]
    """
    field = np.asarray(weights) > 0
    rows, columns = (np.flatnonzero(field.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return field
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if field[box].all():
        return field
    # Once more for the crossing of two gaps, which has measured pixels neither beside nor above it.
    for _ in range(2):
        field |= _between(field, 0) | _between(field, 1)
    return field


def _between(known: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Pixels with known ones before and after them along an axis."""
    before = np.logical_or.accumulate(known, axis=axis)
    after = np.flip(np.logical_or.accumulate(np.flip(known, axis), axis=axis), axis)
    return before & after


def _pushed_and_pulled(
    image: NDArray[Any], weights: NDArray[Any], missing: NDArray[np.bool_]
) -> Floats:
    """Fill from means over squares, however far the measured pixels are."""
    known = np.where(missing, 0, image).astype(np.float32)
    if not missing.any():
        return known
    if max(image.shape) <= _COARSEST or missing.all():
        total = float(weights.sum(dtype=np.float64))
        mean = float((known * weights).sum(dtype=np.float64)) / total if total > 0 else 0.0
        return np.where(missing, np.float32(mean), known)
    # An odd side is continued, so that every pixel lies in a square.
    odd = [(0, side % 2) for side in image.shape]
    shares = np.pad(np.asarray(weights, np.float32), odd, mode="edge")
    sums = binned(np.pad(known, odd, mode="edge") * shares, 2)
    coarse_shares = binned(shares, 2)
    coarse = np.divide(sums, coarse_shares, out=np.zeros_like(sums), where=coarse_shares > 0)
    empty = coarse_shares <= 0
    around = _doubled(_doubled(_pushed_and_pulled(coarse, coarse_shares, empty), 0), 1)
    known[missing] = around[: image.shape[0], : image.shape[1]][missing]
    return known


def _doubled(coarse: Floats, axis: int) -> Floats:
    """Interpolate to twice as many pixels along an axis: 3/4 of the nearest, 1/4 of the next."""
    lines = np.moveaxis(coarse, axis, 0)
    beyond = np.concatenate([lines[:1], lines, lines[-1:]])
    fine = np.empty((2 * len(lines), *lines.shape[1:]), np.float32)
    fine[0::2] = 0.75 * lines + 0.25 * beyond[:-2]
    fine[1::2] = 0.75 * lines + 0.25 * beyond[2:]
    return np.moveaxis(fine, 0, axis)


def filled_series(images: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """Fill the unmeasured pixels of each image, see :func:`filled`.

    Parameters
    ----------
    images, weights : ndarray
        Shape (n, rows, columns).

    Returns
    -------
    ndarray
        Float32, shape (n, rows, columns).

    Examples
    --------
    >>> import numpy as np
    >>> filled_series(np.ones((1, 2, 2)), np.zeros((1, 2, 2))).sum()
    np.float32(0.0)
    """
    return np.stack([filled(*pair) for pair in zip(images, weights, strict=True)])


def binned_by_weight(
    image: NDArray[Any], weights: NDArray[Any], binning: int
) -> tuple[Floats, Floats]:
    """Average an image over squares of pixels, each pixel by its weight.

    Parameters
    ----------
    image, weights : ndarray
        Shape (rows, columns).
    binning : int
        Side of the squares in pixels, see :func:`.arrays.binned`.

    Returns
    -------
    image, weights : ndarray
        Float32, binned. The weight of a square is the mean of its pixels' weights; a square of
        weight 0 is filled.

    Examples
    --------
    >>> import numpy as np
    >>> image, shares = binned_by_weight(np.array([[1.0, 9.0]]), np.array([[1.0, 0.0]]), 2)
    >>> image.tolist(), shares.tolist()
    ([[1.0]], [[0.5]])
    """
    shares = np.asarray(weights, np.float32)
    known = np.where(shares > 0, image, 0).astype(np.float32)
    coarse_shares = binned(shares, binning) if binning > 1 else shares
    sums = binned(known * shares, binning) if binning > 1 else known * shares
    means = np.divide(sums, coarse_shares, out=np.zeros_like(sums), where=coarse_shares > 0)
    return filled(means, coarse_shares), coarse_shares
