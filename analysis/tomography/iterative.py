"""SIRT, the simultaneous iterative reconstruction technique, on many slices at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series, in_threads, zeros
from ..core.weights import checked_weights, field_of, filled_series
from .gradient_steps import checked_initial, iterated
from .projector import LANES, Geometry, blocks_of
from .reconstruction import Reconstruction

# Rays and voxels with a smaller sum (in voxel sides) are left alone.
_MIN_SUM = 1e-6
# A voxel needs filled pixels if less than this share of it was measured, and a filled pixel counts
# fully if its ray passes so many voxels that need it.
_MIN_MEASURED, _NEEDED_VOXELS = 0.5, 2.0


def sirt(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    iterations: int,
    *,
    slice_shape: tuple[int, int] | None = None,
    initial: NDArray[Any] | None = None,
    minimum: float = 0.0,
    weights: NDArray[Any] | None = None,
) -> Reconstruction:
    """Reconstruct a volume by SIRT: x <- max(minimum, x + C P^T W R (b - P x)).

    W are the weights of the pixels, R and C the inverse row and column sums of the projector P
    (Gilbert, J. Theor. Biol. 36, 105, 1972; van der Sluis and van der Vorst, Linear Algebra Appl.
    130, 257, 1990).

    Memory beside the images and the volume, per thread and for any number of slices: 128 bytes
    for each voxel of one slice and 384 bytes for each pixel of its sinogram (12 MB at 256 pixels
    and 41 angles, 150 MB at 1024 pixels). The check of the images needs one byte per pixel.

    Parameters
    ----------
    images : ndarray
        Shape (angles, y, x'); the tilt axis runs along y through the centre of x'.
    tilt_deg : ndarray
        Angles in degrees, shape (angles,), in any order and spacing.
    iterations : int
        Number of iterations.
    slice_shape : tuple of int, optional
        Voxels along (z, x); by default a square as wide as the images.
    initial : ndarray, optional
        Volume to start from, shape (y, z, x); by default zeros.
    minimum : float
        Lowest value that a voxel may take; ``-inf`` for no bound.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. What
        a pixel of weight 0 holds has no influence. Where voxels are seen by hardly any other, one
        in a gap is filled from its surroundings (:func:`pyrotome.analysis.core.filled`); one that
        the field did not reach is not.

    Returns
    -------
    Reconstruction
        The volume and the relative residual before each iteration.

    Raises
    ------
    ValueError
        If images, angles, weights and initial volume do not belong together or hold NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.tomography import project
    >>> volume = np.zeros((4, 16, 16), np.float32)
    >>> volume[:, 5:11, 6:10] = 1
    >>> tilt_deg = np.arange(-60.0, 61.0, 10.0)
    >>> made = sirt(project(volume, tilt_deg), tilt_deg, 30)
    >>> made.volume.shape, bool(made.residual[-1] < 0.1 * made.residual[0])
    ((4, 16, 16), True)
    """
    images, tilts = checked_series(images, tilt_deg)
    weights = checked_weights(weights, images.shape)
    given = images
    _, slices, detector = images.shape
    height, width = slice_shape or (detector, detector)
    geometry = Geometry(tilts, detector, height, width)
    checked_initial(initial, (slices, height, width))
    ray_weights, voxel_gains = _inverse_sums(geometry)
    if weights is not None:
        given, weights = _with_needed(geometry, images, weights, voxel_gains)
    return iterated(
        given, geometry, iterations, voxel_gains, minimum=minimum, initial=initial,
        rays=ray_weights, weights=weights,
    )  # fmt: skip


def _with_needed(
    geometry: Geometry, images: NDArray[Any], weights: Floats, gains: Floats
) -> tuple[NDArray[Any], Floats]:
    """Fill pixels in gaps on rays through voxels that hardly any measured pixel shows.

    A gap of the detector along the tilt axis or across it would leave a hole in the volume.
    """
    slices = images.shape[1]
    gaps = np.stack([field_of(shares) & (shares < 1) for shares in weights])
    if not gaps.any():
        return images, weights
    wanted = weights.copy()

    def weigh(block: int) -> None:
        part = slice(block * LANES, min((block + 1) * LANES, slices))
        (shares,) = blocks_of(weights[:, part].transpose(1, 0, 2))
        shares[:, :, part.stop - part.start :] = 1
        need = zeros((geometry.height, geometry.width, LANES))
        geometry.backproject(shares, need, gains)
        np.clip(1 - need / np.float32(_MIN_MEASURED), 0, 1, out=need)
        need[gains <= 0] = 0
        if need.any():
            rays = zeros(shares.shape)
            geometry.project(need, rays, 1 / _NEEDED_VOXELS)
            shares += (1 - shares) * np.minimum(rays, 1)
            wanted[:, part] = (
                shares[:, :, : part.stop - part.start].transpose(2, 0, 1).swapaxes(0, 1)
            )

    in_threads(weigh, range(-(-slices // LANES)))
    wanted = np.where(gaps, wanted, weights)
    return (images if np.array_equal(wanted, weights) else filled_series(images, weights)), wanted


def _inverse_sums(geometry: Geometry) -> tuple[Floats, Floats]:
    """Inverse row sums (angles, detector) and column sums (z, x) of the projector."""
    sinogram = zeros((geometry.angles, geometry.detector, LANES))
    geometry.project(np.ones((geometry.height, geometry.width, LANES), np.float32), sinogram)
    volume = zeros((geometry.height, geometry.width, LANES))
    geometry.backproject(np.ones_like(sinogram), volume)
    return _inverse(sinogram[..., 0]), _inverse(volume[..., 0])


def _inverse(sums: Floats) -> Floats:
    inverse = np.zeros_like(sums)
    np.divide(1.0, sums, out=inverse, where=sums > _MIN_SUM)
    return inverse
