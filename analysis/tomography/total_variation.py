"""Volumes from few views and a missing wedge: least squares with the total variation held low.

Found is the minimum, among volumes x of no voxel below `minimum`, of

    1/2 |P x - b|^2 + weight * TV(x),    TV(x) = sum of |grad x| over the voxels in 3D.

As in ISER each iteration first lessens the misfit to the images and then the total variation.
Here the first is a gradient step and the second one step of the dual problem of TV denoising
(Beck and Teboulle, IEEE Trans. Image Process. 18, 2419, 2009), whose dual field is carried from
iteration to iteration; Nesterov's momentum accelerates both.

The volume stays in the projector's blocks (`LANES` slices innermost) throughout; differences
along y reach from the last lane of a block to the first of the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series, in_threads, zeros
from .image_levels import automatic_weight
from .projector import LANES, Geometry, blocks_of, slices_of
from .reconstruction import Reconstruction
from .tv_kernels import accelerated_primal_step, dual_step, primal_step

# The gradient in 3D has a squared norm of at most 12.
_DUAL_STEP = 1.0 / 12.0
# Views that come singly: room for so many at first, and the automatic weight is sought again after
# each of the first, then whenever there are so many times as many.
_ROOM, _FEW, _MORE = 8, 8, 1.2


class TvSolver:
    """A volume that grows with its tilt series: views and iterations in any order.

    Parameters
    ----------
    slices, detector : int
        Rows and columns of every image; the tilt axis runs along the rows' numbers (y).
    slice_shape : tuple of int, optional
        Voxels along (z, x); a square as wide as the images without it.
    weight : float or "auto"
        Weight of the total variation, in units of (image value) x (voxel side); "auto" takes it
        from the noise of the images (:func:`automatic_weight`).
    minimum : float
        Lowest value that a voxel may take; ``-inf`` for no bound.
    initial : ndarray, optional
        Volume to start from, shape (y, z, x); zeros without it.

    Raises
    ------
    ValueError
        If sizes are not positive, the weight is negative, or the initial volume does not fit.
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
                f"{slices} slices of {height} x {width} voxels from {detector} pixels; "
                "each needs at least 1"
            )
        if weight != "auto" and not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"a weight of {weight}; 'auto' or a number from 0 on is needed")
        shape = (slices, height, width)
        if initial is not None and initial.shape != shape:
            raise ValueError(f"initial volume of shape {initial.shape}; {shape} is needed")
        if initial is not None and not np.isfinite(initial).all():
            raise ValueError("the initial volume holds NaN or infinity")
        self._slices, self._detector = slices, detector
        self._height, self._width = height, width
        self._asked_weight, self._floor = weight, np.float32(minimum)
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
        # Images in the projector's blocks, with room for some more.
        self._measured = zeros((blocks, _ROOM, detector, LANES))
        self._geometry: Geometry | None = None
        self._rate, self._weight = 0.0, 0.0
        self._weighed, self._noise = 0, 0.0
        self._momentum_age = 0
        self._misfit: list[float] = []

    @property
    def views(self) -> int:
        """Number of images so far."""
        return len(self._tilts)

    @property
    def weight(self) -> float:
        """Weight of the total variation for the images so far."""
        self._prepare()
        return self._weight

    @property
    def residual(self) -> NDArray[np.float64]:
        """Before each iteration, the norm of (images - projections) over that of the images."""
        return np.array(self._misfit)

    @property
    def volume(self) -> Floats:
        """A copy of the volume as it stands; float32, shape (y, z, x)."""
        return slices_of(self._volume, self._slices)

    def central_slices(self) -> dict[str, Floats]:
        """Cut the planes through the middle, like :func:`.reconstruction.central_slices`."""
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

    def add_view(self, image: NDArray[Any], tilt_deg: float) -> None:
        """Take in an image; the next iterations count it.

        Parameters
        ----------
        image : ndarray
            Shape (slices, detector).
        tilt_deg : float
            Its tilt angle.

        Raises
        ------
        ValueError
            If the shape differs from the solver's, or something is not finite.
        """
        if image.shape != (self._slices, self._detector):
            raise ValueError(
                f"an image of shape {image.shape}; {(self._slices, self._detector)} is needed"
            )
        checked_series(image[None], np.array([tilt_deg]))
        number = len(self._views)
        if number == self._measured.shape[1]:
            larger = zeros((len(self._measured), 2 * number, *self._measured.shape[2:]))
            larger[:, :number] = self._measured
            self._measured = larger
        self._views.append(np.array(image, np.float32))
        self._tilts.append(float(tilt_deg))
        self._measured[:, number] = blocks_of(self._views[-1][:, None])[:, 0]
        self._geometry = None

    def step(self, iterations: int = 1) -> None:
        """Iterate on the images so far.

        Raises
        ------
        ValueError
            If there is no image yet.
        """
        geometry, measured = self._prepare()
        norm = float(sum(np.vdot(block, block) for block in measured))
        blocks = range(len(measured))
        rate = np.full((self._height, self._width), self._rate, np.float32)
        radius = np.float32(self._weight * self._rate)
        squares = np.zeros(len(measured))
        ahead, trial, dual = self._ahead, self._trial, self._dual
        step = np.float32(_DUAL_STEP)

        def descend(block: int) -> None:
            residual = zeros(measured[block].shape)
            residual[:] = measured[block]
            geometry.project(ahead[block], residual, -1.0)
            squares[block] = np.vdot(residual, residual)
            geometry.backproject(residual, ahead[block], rate)

        for _ in range(iterations):
            momentum = np.float32(self._momentum_age / (self._momentum_age + 4))
            self._momentum_age += 1
            in_threads(descend, blocks)
            if radius > 0:
                in_threads(lambda b: primal_step(b, ahead, dual, self._floor, trial), blocks)
                in_threads(lambda b: dual_step(b, trial, self._follows, step, radius, dual), blocks)
            self._advance_all(momentum)
            self._misfit.append(math.sqrt(squares.sum() / norm) if norm > 0 else 0.0)

    def _advance_all(self, momentum: np.float32) -> None:
        ahead, dual, floor, volume = self._ahead, self._dual, self._floor, self._volume
        in_threads(
            lambda b: accelerated_primal_step(b, ahead, dual, floor, momentum, volume),
            range(len(volume)),
        )

    def _prepare(self) -> tuple[Geometry, list[Floats]]:
        """Bring geometry, step and weight up to date after new images."""
        count = len(self._views)
        measured = [block[:count] for block in self._measured]
        if self._geometry is not None:
            return self._geometry, measured
        if not count:
            raise ValueError("no image has been added yet; nothing can be reconstructed")
        tilts = np.array(self._tilts)
        self._geometry = Geometry(tilts, self._detector, self._height, self._width)
        self._rate = 1.0 / _largest_eigenvalue(self._geometry)
        if self._asked_weight != "auto":
            self._weight = float(self._asked_weight)
        elif count < _FEW or count >= _MORE * self._weighed:
            self._weight = automatic_weight(np.stack(self._views), tilts)
            self._weighed, self._noise = count, self._weight / math.sqrt(count)
        else:
            self._weight = self._noise * math.sqrt(count)
        # Momentum towards the minimum for fewer images is worth nothing now.
        self._ahead[:] = self._volume
        self._momentum_age = 0
        return self._geometry, measured


def _largest_eigenvalue(geometry: Geometry) -> float:
    """Bound of the largest eigenvalue of P^T P: the largest of its row sums."""
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
    progress: Callable[[int], None] | None = None,
) -> Reconstruction:
    """Reconstruct by total-variation minimisation; the problem is in the module's docstring.

    Parameters
    ----------
    images : ndarray
        Shape (views, y, x'), zero where there is vacuum; the tilt axis runs along y through the
        middle of x'.
    tilt_deg : ndarray
        Angles in degrees, shape (views,), in any order and spacing.
    iterations : int
        How many.
    weight : float or "auto"
        Weight of the total variation, in the images' unit; see :func:`automatic_weight`.
    slice_shape : tuple of int, optional
        Voxels along (z, x); a square as wide as the images without it.
    initial : ndarray, optional
        Volume to start from, shape (y, z, x); zeros without it.
    minimum : float
        Lowest value that a voxel may take; ``-inf`` for no bound.
    progress : callable, optional
        Called after each iteration with the number of iterations done.

    Returns
    -------
    Reconstruction
        The volume, and before each iteration the norm of (images - projections) over that of the
        images, without weights; with momentum it need not fall in every single iteration.

    Raises
    ------
    ValueError
        If images, angles and initial volume do not belong together or hold NaN.
    """
    images, tilts = checked_series(images, tilt_deg)
    _, slices, detector = images.shape
    solver = TvSolver(
        slices, detector, slice_shape=slice_shape, weight=weight, minimum=minimum, initial=initial
    )
    for image, tilt in zip(images, tilts, strict=True):
        solver.add_view(image, float(tilt))
    for done in range(iterations):
        solver.step()
        if progress is not None:
            progress(done + 1)
    return Reconstruction(solver.volume, solver.residual)
