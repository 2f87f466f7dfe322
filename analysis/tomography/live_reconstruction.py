"""Live reconstruction: a volume that improves with every view while its series is recorded."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from ..core.weights import checked_weights
from .image_levels import vacuum_level
from .iterative import sirt
from .reconstruction import central_slices, margin_px
from .total_variation import TvSolver

# Part of the iterations of total-variation minimisation that is done while views arrive.
_EARLY_SHARE = 0.5


class LiveReconstruction:
    """A volume that improves with every view; the final reconstruction continues from it.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (y, z, x).
    views : int
        Number of expected views.
    tv_iterations : int
        Total number of iterations of total-variation minimisation; half of them are spread evenly
        over the views. If this gives less than one iteration per view, each view adds one
        iteration of SIRT instead, from which the final reconstruction cannot continue.
    initial : ndarray, optional
        Volume to start from, shape (y, z, x).
    thickness : int, optional
        Voxels along z, about the centre; total-variation minimisation leaves vacuum beyond them.

    Examples
    --------
    >>> import numpy as np
    >>> live = LiveReconstruction((4, 16, 16), views=3, tv_iterations=30)
    >>> list(live.add_view(np.ones((4, 16), np.float32), 0.0))
    [0.2, 0.4, 0.6, 0.8, 1.0]
    >>> live.volume.shape
    (4, 16, 16)
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        views: int,
        tv_iterations: int,
        initial: Floats | None = None,
        thickness: int | None = None,
    ) -> None:
        self._shape = shape
        self._occupied = _central(shape[1], thickness)
        # Voxels beside the images on each side, for what lies there.
        self._margin = 0
        self.iterations_per_view = int(_EARLY_SHARE * tv_iterations / max(1, views))
        self.iterations = 0
        self._solver: TvSolver | None = None
        self._volume = initial
        self._images: list[Floats] = []
        self._weights: list[Floats | None] = []
        self._tilts: list[float] = []
        if self.iterations_per_view:
            self._solver = self._new_solver(initial)
            self._volume = None

    @property
    def serves_as_start(self) -> bool:
        """Whether the final reconstruction can continue from this volume."""
        return self._solver is not None

    @property
    def volume(self) -> Floats:
        """The current volume, shape (y, z, x), in the unit of the images per voxel side."""
        if self._solver is not None:
            whole = np.zeros(self._shape, np.float32)
            whole[:, self._occupied] = self._solver.volume[:, :, self._beside]
            return whole
        return np.zeros(self._shape, np.float32) if self._volume is None else self._volume

    @property
    def central_slices(self) -> dict[str, Floats]:
        """The planes through the centre, see :func:`.reconstruction.central_slices`."""
        if self._solver is None:
            return central_slices(self.volume)
        thin = self._solver.central_slices()
        planes = {axis: np.zeros(self._plane_shape(axis), np.float32) for axis in thin}
        planes["y"][self._occupied] = thin["y"][:, self._beside]
        planes["z"][:] = thin["z"][:, self._beside]
        planes["x"][:, self._occupied] = thin["x"]
        return planes

    @property
    def _beside(self) -> slice:
        """Voxels along x of the solver that belong to the volume."""
        return slice(self._margin, self._margin + self._shape[2])

    def _plane_shape(self, axis: str) -> tuple[int, int]:
        y, z, x = self._shape
        return {"y": (z, x), "z": (y, x), "x": (y, z)}[axis]

    def _new_solver(self, initial: Floats | None) -> TvSolver:
        y, _, x = self._shape
        height = self._occupied.stop - self._occupied.start
        start = None if initial is None else initial[:, self._occupied]
        if start is not None and self._margin:
            start = np.pad(start, ((0, 0), (0, 0), (self._margin, self._margin)))
        return TvSolver(y, x, slice_shape=(height, x + 2 * self._margin), initial=start)

    def add_view(
        self, image: Floats, tilt_deg: float, weights: Floats | None = None
    ) -> Iterator[float]:
        """Add an aligned view and iterate.

        Parameters
        ----------
        image : ndarray
            Shape (y, x'); the value of its vacuum is subtracted.
        tilt_deg : float
            Tilt angle in degrees.
        weights : ndarray, optional
            Share of each pixel that was measured, 0 to 1; by default all 1.

        Yields
        ------
        float
            Finished fraction after each iteration.
        """
        weights = checked_weights(weights, image.shape)
        clean = image - np.float32(vacuum_level(image, weights))
        if self._solver is not None:
            self._solver.add_view(clean, tilt_deg, weights)
            for done in range(self.iterations_per_view):
                self._solver.step()
                self.iterations += 1
                yield (done + 1) / self.iterations_per_view
            return
        self._images.append(clean)
        self._tilts.append(tilt_deg)
        self._weights.append(weights)
        images, tilts = np.stack(self._images), np.array(self._tilts)
        self._volume = sirt(
            images,
            tilts,
            1,
            slice_shape=self._shape[1:],
            initial=self._volume,
            weights=self._all_weights(),
        ).volume
        yield 1.0

    def _all_weights(self) -> Floats | None:
        """Weights of the images so far; None if they are all 1."""
        if all(weights is None for weights in self._weights):
            return None
        even = np.ones(self._images[0].shape, np.float32)
        return np.stack([even if weights is None else weights for weights in self._weights])

    def finish(
        self,
        images: Floats,
        tilt_deg: NDArray[np.float64],
        iterations: int,
        displacement: tuple[float, float, float] = (0.0, 0.0, 0.0),
        thickness: int | None = None,
        weights: Floats | None = None,
    ) -> Generator[float, None, None]:
        """Continue with the final images.

        Parameters
        ----------
        images : ndarray
            Shape (views, y, x'), zero in the vacuum; they replace the views added before.
        tilt_deg : ndarray
            Angles in degrees, shape (views,).
        iterations : int
            Total number of iterations, including those already done.
        displacement : tuple of float
            Displacement of the specimen along (y, z, x), in voxels, against the views added
            before.
        thickness : int, optional
            As for the class, if it is known better now.
        weights : ndarray, optional
            Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1.
            Where the field has wandered, what lies beside the volume is reconstructed with it.

        Yields
        ------
        float
            Finished fraction after each iteration.
        """
        start = np.roll(self.volume, [round(d) for d in displacement], (0, 1, 2))
        # The old solver frees its memory before the new one allocates as much.
        self._solver = None
        self._occupied = _central(self._shape[1], thickness)
        weights = checked_weights(weights, images.shape)
        self._margin = margin_px(weights)
        solver = self._new_solver(start)
        del start
        for n, (image, tilt) in enumerate(zip(images, tilt_deg, strict=True)):
            solver.add_view(image, float(tilt), None if weights is None else weights[n])
        self._solver = solver
        remaining = max(1, iterations - self.iterations)
        for done in range(remaining):
            solver.step()
            self.iterations += 1
            yield (done + 1) / remaining

    @property
    def residual(self) -> float:
        """Relative residual before the last iteration of total-variation minimisation, or NaN."""
        return float(self._solver.residual[-1]) if self._solver is not None else math.nan


def _central(height: int, thickness: int | None) -> slice:
    """The central `thickness` voxels of a column; all voxels without a thickness."""
    count = height if thickness is None else min(thickness, height)
    # The same number is left out at both ends, so that the axis stays in the centre.
    count += (height - count) % 2
    return slice((height - count) // 2, (height + count) // 2)
