"""Total-variation minimisation: volumes from few views and with a missing wedge.

The solver minimises, over volumes x without voxels below `minimum`,

    1/2 |P x - b|^2 + weight * TV(x),    TV(x) = sum of |grad x| over the voxels in 3D,

where each square of the first term counts by the share of the pixel that was measured. A pixel that
the field of its view did not reach does not count; one in a gap of the detector is filled, and
counts a little.

Each iteration first reduces the residual and then the total variation, as in ISER. The first is a
gradient step, the second is one step of the dual problem of TV denoising (Beck and Teboulle, IEEE
Trans. Image Process. 18, 2419, 2009). The dual field is kept from iteration to iteration, and
Nesterov's momentum accelerates both.

The volume stays in the blocks of the projector (`LANES` slices innermost); differences along y
reach from the last lane of a block to the first lane of the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series, in_threads, zeros
from ..core.weights import checked_weights, every_pixel, field_of, filled
from .gradient_steps import checked_initial
from .image_levels import automatic_weight
from .projector import LANES, Geometry, blocks_of, slices_of
from .reconstruction import Reconstruction
from .tv_kernels import accelerated_primal_step, dual_step, primal_step

# The gradient in 3D has a squared norm of at most 12.
_DUAL_STEP = 1.0 / 12.0
# Memory for so many views at first. The automatic weight is computed again after each of the first
# views, and then when their number has grown by this factor.
_CAPACITY, _FEW, _GROWTH = 8, 8, 1.2

# Filled pixels in gaps count so much: voxels that no measured pixel shows follow them.
_FILLED_WEIGHT = 0.3


class TvSolver:
    """Total-variation minimisation to which views are added between iterations.

    Parameters
    ----------
    slices, detector : int
        Rows (y) and columns (x') of every image; the tilt axis runs along y.
    slice_shape : tuple of int, optional
        Voxels along (z, x); by default a square as wide as the images.
    weight : float or "auto"
        Weight of the total variation, in units of (image value) x (voxel side); "auto" computes
        it from the noise of the images (:func:`.image_levels.automatic_weight`).
    minimum : float
        Lowest value that a voxel may take; ``-inf`` for no bound.
    initial : ndarray, optional
        Volume to start from, shape (y, z, x); by default zeros.

    Raises
    ------
    ValueError
        If a size is not positive, the weight is negative, or the initial volume does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> solver = TvSolver(4, 16)
    >>> for tilt_deg in (-20.0, 0.0, 20.0):
    ...     solver.add_view(np.ones((4, 16)), tilt_deg)
    ...     solver.step(2)
    >>> solver.views, solver.volume.shape, solver.residual.size
    (3, (4, 16, 16), 6)
    """

    def __init__(
        self,
        slices: int,
        detector: int,
        *,
        slice_shape: tuple[int, int] | None = None,
        weight: float | Literal["auto"] = "auto",
        minimum: float = 0.0,
        initial: NDArray[Any] | None = None,
    ) -> None:
        height, width = slice_shape or (detector, detector)
        if min(slices, detector, height, width) < 1:
            raise ValueError(
                f"{slices} slices of {height} x {width} voxels from {detector} pixels: "
                "each number must be at least 1"
            )
        if weight != "auto" and not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the weight is {weight}; it must be 'auto' or a number >= 0")
        shape = (slices, height, width)
        checked_initial(initial, shape)
        if initial is not None and not np.isfinite(initial).all():
            raise ValueError("the initial volume holds NaN or infinity")
        self._slices, self._detector = slices, detector
        self._height, self._width = height, width
        self._requested_weight, self._floor = weight, np.float32(minimum)
        self._volume = blocks_of(
            np.broadcast_to(np.float32(0), shape) if initial is None else initial
        )
        blocks = len(self._volume)
        self._ahead = zeros(self._volume.shape)
        self._ahead[:] = self._volume
        self._trial = zeros(self._volume.shape)
        self._dual = zeros((3, *self._volume.shape))
        self._follows = np.zeros((blocks, LANES), np.float32)
        self._follows.reshape(-1)[: slices - 1] = 1.0
        self._tilts: list[float] = []
        self._views: list[Floats] = []
        # Images in the blocks of the projector, with memory for some more.
        self._measured = zeros((blocks, _CAPACITY, detector, LANES))
        # Weights of their pixels, once an image has some that are not 1; and those given.
        self._pixel_weights: Floats | None = None
        self._given_weights: list[Floats | None] = []
        self._geometry: Geometry | None = None
        self._step_size, self._weight = 0.0, 0.0
        self._weight_views, self._noise = 0, 0.0
        self._momentum_age = 0
        self._residuals: list[float] = []

    @property
    def views(self) -> int:
        """Number of images added so far."""
        return len(self._tilts)

    @property
    def weight(self) -> float:
        """Weight of the total variation for the images so far."""
        self._prepare()
        return self._weight

    @property
    def residual(self) -> NDArray[np.float64]:
        """Relative residual before each iteration, shape (iterations,)."""
        return np.array(self._residuals)

    @property
    def volume(self) -> Floats:
        """A copy of the current volume; float32, shape (y, z, x)."""
        return slices_of(self._volume, self._slices)

    def central_slices(self) -> dict[str, Floats]:
        """Cut the planes through the centre, like :func:`.reconstruction.central_slices`."""
        blocks = self._volume
        y, z, x = self._slices // 2, self._height // 2, self._width // 2
        across = {"z": blocks[:, z], "x": blocks[:, :, x]}
        planes = {
            axis: np.ascontiguousarray(
                part.transpose(0, 2, 1).reshape(-1, part.shape[1])[: self._slices]
            )
            for axis, part in across.items()
        }
        return {"y": np.ascontiguousarray(blocks[y // LANES, :, :, y % LANES])} | planes

    def add_view(
        self, image: NDArray[Any], tilt_deg: float, weights: NDArray[Any] | None = None
    ) -> None:
        """Add an image; the next iterations use it.

        Parameters
        ----------
        image : ndarray
            Shape (slices, detector).
        tilt_deg : float
            Tilt angle in degrees.
        weights : ndarray, optional
            Share of each pixel that was measured, 0 to 1; by default all 1. What a pixel of weight
            0 holds has no influence.

        Raises
        ------
        ValueError
            If a shape differs from that of the solver, or a value is not finite.
        """
        if image.shape != (self._slices, self._detector):
            raise ValueError(
                f"the image has the shape {image.shape}; {(self._slices, self._detector)} is needed"
            )
        checked_series(image[None], np.array([tilt_deg]))
        number = len(self._views)
        if number == self._measured.shape[1]:
            larger = zeros((len(self._measured), 2 * number, *self._measured.shape[2:]))
            larger[:, :number] = self._measured
            self._measured = larger
        weights = checked_weights(weights, image.shape)
        self._views.append(
            np.array(image, np.float32) if weights is None else _without_gaps(image, weights)
        )
        self._weigh(number, weights)
        self._given_weights.append(weights)
        self._tilts.append(float(tilt_deg))
        self._measured[:, number] = blocks_of(self._views[-1][:, None])[:, 0]
        self._geometry = None

    def _weigh(self, number: int, weights: Floats | None) -> None:
        """Keep the weights of the pixels of an image; none are kept while all are 1."""
        kept, shape = self._pixel_weights, self._measured.shape
        if kept is None and weights is None:
            return
        if kept is None or kept.shape != shape:
            larger = zeros(shape)
            larger[:] = 1
            if kept is not None:
                larger[:, :number] = kept[:, :number]
            self._pixel_weights = kept = larger
        if weights is not None:
            least = np.where(field_of(weights), np.float32(_FILLED_WEIGHT), np.float32(0))
            shares = np.maximum(weights, least)
            kept[:, number] = blocks_of(shares[:, None])[:, 0]

    def step(self, iterations: int = 1) -> None:
        """Iterate on the images added so far.

        Parameters
        ----------
        iterations : int
            Number of iterations.

        Raises
        ------
        ValueError
            If no image has been added.
        """
        geometry, measured = self._prepare()
        weights, count = self._pixel_weights, self.views
        blocks = range(len(measured))
        if weights is None:
            norm = float(sum(np.vdot(block, block) for block in measured))
        else:
            norm = float(
                sum(np.vdot(measured[b], measured[b] * weights[b, :count]) for b in blocks)
            )
        step_sizes = np.full((self._height, self._width), self._step_size, np.float32)
        radius = np.float32(self._weight * self._step_size)
        squares = np.zeros(len(measured))
        ahead, trial, dual = self._ahead, self._trial, self._dual
        step = np.float32(_DUAL_STEP)

        def descend(block: int) -> None:
            residual = zeros(measured[block].shape)
            residual[:] = measured[block]
            geometry.project(ahead[block], residual, -1.0)
            if weights is None:
                squares[block] = np.vdot(residual, residual)
            else:
                weighted = zeros(residual.shape)
                np.multiply(residual, weights[block, :count], out=weighted)
                squares[block] = np.vdot(weighted, residual)
                residual = weighted
            geometry.backproject(residual, ahead[block], step_sizes)

        for _ in range(iterations):
            momentum = np.float32(self._momentum_age / (self._momentum_age + 4))
            self._momentum_age += 1
            in_threads(descend, blocks)
            if radius > 0:
                in_threads(lambda b: primal_step(b, ahead, dual, self._floor, trial), blocks)
                in_threads(lambda b: dual_step(b, trial, self._follows, step, radius, dual), blocks)
            self._advance_all(momentum)
            self._residuals.append(math.sqrt(squares.sum() / norm) if norm > 0 else 0.0)

    def _all_weights(self) -> Floats | None:
        """Weights of all views as they were given; None if all are 1."""
        if self._pixel_weights is None:
            return None
        even = every_pixel((self._slices, self._detector))
        return np.stack([even if given is None else given for given in self._given_weights])

    def _advance_all(self, momentum: np.float32) -> None:
        ahead, dual, floor, volume = self._ahead, self._dual, self._floor, self._volume
        in_threads(
            lambda b: accelerated_primal_step(b, ahead, dual, floor, momentum, volume),
            range(len(volume)),
        )

    def _prepare(self) -> tuple[Geometry, list[Floats]]:
        """Update geometry, step size and weight after new images."""
        count = len(self._views)
        measured = [block[:count] for block in self._measured]
        if self._geometry is not None:
            return self._geometry, measured
        if not count:
            raise ValueError("no image has been added yet; nothing can be reconstructed")
        tilts = np.array(self._tilts)
        self._geometry = Geometry(tilts, self._detector, self._height, self._width)
        self._step_size = 1.0 / _largest_eigenvalue(self._geometry)
        if self._requested_weight != "auto":
            self._weight = float(self._requested_weight)
        elif count < _FEW or count >= _GROWTH * self._weight_views:
            self._weight = automatic_weight(np.stack(self._views), tilts, self._all_weights())
            self._weight_views, self._noise = count, self._weight / math.sqrt(count)
        else:
            self._weight = self._noise * math.sqrt(count)
        # Momentum points to the minimum for fewer images, which is another one.
        self._ahead[:] = self._volume
        self._momentum_age = 0
        return self._geometry, measured


def _without_gaps(image: NDArray[Any], weights: Floats) -> Floats:
    """The image with its gaps filled; zero where nothing is known."""
    if (field_of(weights) & (weights <= 0)).any():
        return filled(image, weights)
    return np.where(weights > 0, image, 0).astype(np.float32)


def _largest_eigenvalue(geometry: Geometry) -> float:
    """Upper bound of the largest eigenvalue of P^T P: its largest row sum."""
    sinogram = zeros((geometry.angles, geometry.detector, LANES))
    geometry.project(np.ones((geometry.height, geometry.width, LANES), np.float32), sinogram)
    volume = zeros((geometry.height, geometry.width, LANES))
    geometry.backproject(sinogram, volume)
    return max(float(volume.max()), float(np.finfo(np.float32).tiny))


def tv(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    iterations: int = 300,
    weight: float | Literal["auto"] = "auto",
    *,
    slice_shape: tuple[int, int] | None = None,
    initial: NDArray[Any] | None = None,
    minimum: float = 0.0,
    weights: NDArray[Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Reconstruction:
    """Reconstruct a volume by total-variation minimisation.

    Minimises ``1/2 |P x - b|^2 + weight * TV(x)`` by an accelerated proximal gradient method (Beck
    and Teboulle, IEEE Trans. Image Process. 18, 2419, 2009).

    Parameters
    ----------
    images : ndarray
        Shape (views, y, x'), zero in the vacuum (:func:`.image_levels.vacuum_level`); the tilt
        axis runs along y through the centre of x'.
    tilt_deg : ndarray
        Angles in degrees, shape (views,), in any order and spacing.
    iterations : int
        Number of iterations.
    weight : float or "auto"
        Weight of the total variation, in units of (image value) x (voxel side); see
        :func:`.image_levels.automatic_weight`.
    slice_shape : tuple of int, optional
        Voxels along (z, x); by default a square as wide as the images.
    initial : ndarray, optional
        Volume to start from, shape (y, z, x); by default zeros.
    minimum : float
        Lowest value that a voxel may take; ``-inf`` for no bound.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. A
        pixel of weight 0 has no influence.
    progress : callable, optional
        Called after each iteration with the number of iterations done.

    Returns
    -------
    Reconstruction
        The volume, and the relative residual before each iteration, without weights. Because of
        the momentum the residual need not fall in every iteration.

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
    >>> tilt_deg = np.arange(-40.0, 41.0, 10.0)
    >>> made = tv(project(volume, tilt_deg), tilt_deg, 100, weight=0.01)
    >>> bool(np.abs(made.volume - volume).mean() < 0.05)
    True
    """
    images, tilts = checked_series(images, tilt_deg)
    _, slices, detector = images.shape
    solver = TvSolver(
        slices, detector, slice_shape=slice_shape, weight=weight, minimum=minimum, initial=initial
    )
    weights = checked_weights(weights, images.shape)
    for n, (image, tilt) in enumerate(zip(images, tilts, strict=True)):
        solver.add_view(image, float(tilt), None if weights is None else weights[n])
    for done in range(iterations):
        solver.step()
        if progress is not None:
            progress(done + 1)
    return Reconstruction(solver.volume, solver.residual)
