"""Background under a particle: Laplace's equation inside its mask, with its border given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.ndimage import binary_dilation, binary_fill_holes, gaussian_filter, zoom
from scipy.sparse.linalg import cg, spsolve

from ..core.arrays import Floats, binned

Mask = NDArray[np.bool_]

# Up to so many pixels the equation is solved directly.
_DIRECT = 40_000
_TOLERANCE, _MOST_ITERATIONS = 1e-7, 5000
# The level beside a mask is the mean of pixels within about so many of it.
_BORDER_PX = 2.0


@dataclass(frozen=True)
class Background:
    """The background of a view.

    Attributes
    ----------
    image : ndarray
        Float32, shape (rows, columns): the view less its background, 0 beside the mask.
    level : ndarray
        Float32, shape (rows, columns): the background under the particle, NaN beside the mask.
    mask : ndarray
        Bool, shape (rows, columns): where the particle is.
    threshold : float
        The smoothed view is higher than this in the particle; NaN for a mask that was given.
    """

    image: Floats
    level: Floats
    mask: Mask
    threshold: float


def laplace_background(
    image: NDArray[Any],
    mask: NDArray[Any] | None = None,
    *,
    smoothing_px: float = 3.0,
    grow_px: int = 3,
) -> Background:
    """Take the background from under a particle (Zhang et al., Nat. Commun. 2024).

    Inside the mask the background obeys Laplace's equation, the sum over the four neighbours less
    four times the pixel being 0, with the level beside the mask as its border. Where the mask
    reaches the border of the view, the background goes on without a slope.

    Parameters
    ----------
    image : ndarray
        Shape (rows, columns).
    mask : ndarray, optional
        True in the particle, shape (rows, columns). By default the smoothed view above Otsu's
        threshold, grown by `grow_px`, without holes.
    smoothing_px : float
        Standard deviation of the Gaussian by which the view is smoothed before the threshold: so
        much that atoms run together.
    grow_px : int
        Pixels by which the mask is grown, so that the tails of the outermost atoms lie in it.

    Returns
    -------
    Background
        The view without background, the background and the mask.

    Raises
    ------
    ValueError
        If the mask is empty, covers the view, or has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:40, :40]
    >>> slope = 5 + 0.1 * x
    >>> found = laplace_background(slope + 50.0 * (np.hypot(y - 20, x - 18) < 8))
    >>> bool(abs(found.image[20, 18] - 50) < 0.5), float(found.image[0, 0])
    (True, 0.0)
    """
    values = np.asarray(image, np.float64)
    threshold = float("nan")
    if mask is None:
        inside, threshold = particle_mask(values, smoothing_px, grow_px)
    else:
        inside = np.asarray(mask) != 0
    if inside.shape != values.shape:
        raise ValueError(f"the mask has the shape {inside.shape}; the view has {values.shape}")
    if not inside.any() or inside.all():
        what = "covers the whole view" if inside.any() else "is empty"
        raise ValueError(f"the mask of the particle {what}; give a mask or a larger field")
    level = _filled(_smoothed_beside(values, inside), inside)
    return Background(
        np.where(inside, values - level, 0).astype(np.float32),
        np.where(inside, level, np.nan).astype(np.float32),
        inside,
        threshold,
    )


def particle_mask(
    image: NDArray[Any], smoothing_px: float = 3.0, grow_px: int = 3
) -> tuple[Mask, float]:
    """Mask of a particle by Otsu's threshold of the smoothed view, and the threshold.

    Parameters
    ----------
    image : ndarray
        Shape (rows, columns).
    smoothing_px : float
        Standard deviation of the smoothing.
    grow_px : int
        Pixels by which the mask is grown.

    Returns
    -------
    mask : ndarray
        Bool, shape (rows, columns).
    threshold : float
        Of the smoothed view.
    """
    from skimage.filters import threshold_otsu

    smooth = gaussian_filter(np.asarray(image, np.float64), smoothing_px, mode="nearest")
    if not smooth.min() < smooth.max():
        raise ValueError("the view is the same everywhere; there is no particle in it")
    threshold = float(threshold_otsu(smooth))
    mask = binary_fill_holes(smooth > threshold)
    if grow_px:
        mask = binary_dilation(mask, iterations=grow_px)
    return np.asarray(mask, np.bool_), threshold


def _smoothed_beside(values: NDArray[np.float64], inside: Mask) -> NDArray[np.float64]:
    """The level beside the mask: a mean of pixels outside, so that noise does not run inwards."""
    outside = (~inside).astype(np.float64)
    weight = gaussian_filter(outside, _BORDER_PX, mode="nearest")
    mean = gaussian_filter(values * outside, _BORDER_PX, mode="nearest")
    return np.divide(mean, weight, out=np.zeros_like(mean), where=weight > 1e-6)


def _filled(values: NDArray[np.float64], inside: Mask) -> NDArray[np.float64]:
    """Values beside the mask, and inside the solution of Laplace's equation."""
    system, right = _equations(values, inside)
    out = values.copy()
    if len(right) <= _DIRECT:
        out[inside] = np.asarray(spsolve(system, right), np.float64)
        return out
    # Half the resolution first: what is left are waves that few iterations even out.
    guess = _coarse_guess(values, inside)[inside]
    jacobi = sparse.diags(1 / system.diagonal())
    solution, failed = cg(
        system, right, x0=guess, rtol=_TOLERANCE, maxiter=_MOST_ITERATIONS, M=jacobi
    )
    if failed:
        raise ValueError("the background did not settle; give a smaller mask")
    out[inside] = solution
    return out


def _coarse_guess(values: NDArray[np.float64], inside: Mask) -> NDArray[np.float64]:
    rows, columns = values.shape
    even = (rows + rows % 2, columns + columns % 2)
    pad = [(0, even[0] - rows), (0, even[1] - columns)]
    weights = binned(np.pad((~inside).astype(np.float64), pad, mode="edge"), 2)
    sums = binned(np.pad(np.where(inside, 0, values), pad, mode="edge"), 2)
    coarse = np.divide(sums, weights, out=np.zeros(sums.shape), where=weights > 0)
    solved = _filled(coarse, np.asarray(weights <= 0))
    return np.asarray(zoom(solved, 2, order=1, mode="nearest", grid_mode=True))[:rows, :columns]


def _equations(values: NDArray[np.float64], inside: Mask) -> tuple[Any, NDArray[np.float64]]:
    """Matrix and right side of the equation for the pixels inside."""
    count = int(inside.sum())
    number = np.full(inside.shape, -1, np.intp)
    number[inside] = np.arange(count)
    diagonal, right = np.zeros(count), np.zeros(count)
    rows, columns = [np.arange(count)], [np.arange(count)]
    for axis in (0, 1):
        for ahead in (True, False):
            one, two = [slice(None)] * 2, [slice(None)] * 2
            one[axis], two[axis] = slice(0, -1), slice(1, None)
            here, there = (one, two) if ahead else (two, one)
            mine, next_one = number[tuple(here)], number[tuple(there)]
            of_me = mine >= 0
            np.add.at(diagonal, mine[of_me], 1.0)
            beside = of_me & (next_one < 0)
            np.add.at(right, mine[beside], values[tuple(there)][beside])
            both = of_me & (next_one >= 0)
            rows.append(mine[both])
            columns.append(next_one[both])
    data = [diagonal, *(np.full(len(part), -1.0) for part in rows[1:])]
    places = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csc_matrix((np.concatenate(data), places), shape=(count, count)), right
