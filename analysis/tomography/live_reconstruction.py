"""The volume while its series is acquired: every view is taken in as it comes."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from .image_levels import vacuum_level
from .iterative import sirt
from .reconstruction import central_slices
from .total_variation import TvSolver

# Part of the iterations of total-variation minimisation that is done while views come in.
_EARLY_SHARE = 0.5


class LiveReconstruction:
    """A volume, better after every view; what it has reached is where the final one begins.

    Parameters
    ----------
    shape : tuple of int
        Slices, and voxels along (z, x).
    views : int
        How many are expected.
    tv_iterations : int
        Iterations of total-variation minimisation in all; half of them are spread evenly over
        the views. With 0, or too few for one a view, the volume grows by one iteration of SIRT
        for each view, which is of no use to the final one.
    initial : ndarray, optional
        Volume to start from, shape (y, z, x).
    thickness : int, optional
        Voxels along z, about the middle, beyond which total-variation minimisation leaves vacuum.
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
        self._slab = _middle(shape[1], thickness)
        self.iterations_per_view = int(_EARLY_SHARE * tv_iterations / max(1, views))
        self.iterations = 0
        self._solver: TvSolver | None = None
        self._volume = initial
        self._images: list[Floats] = []
        self._tilts: list[float] = []
        if self.iterations_per_view:
            self._solver = self._new_solver(initial)
            self._volume = None

    @property
    def serves_as_start(self) -> bool:
        """Whether the iterations done count towards the final volume."""
        return self._solver is not None

    @property
    def volume(self) -> Floats:
        """The volume as it stands, shape (y, z, x), in the images' unit per voxel side."""
        if self._solver is not None:
            whole = np.zeros(self._shape, np.float32)
            whole[:, self._slab] = self._solver.volume
            return whole
        return np.zeros(self._shape, np.float32) if self._volume is None else self._volume

    @property
    def central_slices(self) -> dict[str, Floats]:
        """The planes through the middle, see :func:`.reconstruction.central_slices`."""
        if self._solver is None:
            return central_slices(self.volume)
        thin = self._solver.central_slices()
        planes = {axis: np.zeros(self._plane_shape(axis), np.float32) for axis in thin}
        planes["y"][self._slab] = thin["y"]
        planes["z"][:] = thin["z"]
        planes["x"][:, self._slab] = thin["x"]
        return planes

    def _plane_shape(self, axis: str) -> tuple[int, int]:
        y, z, x = self._shape
        return {"y": (z, x), "z": (y, x), "x": (y, z)}[axis]

    def _new_solver(self, initial: Floats | None) -> TvSolver:
        y, _, x = self._shape
        height = self._slab.stop - self._slab.start
        start = None if initial is None else initial[:, self._slab]
        return TvSolver(y, x, slice_shape=(height, x), initial=start)

    def add_view(self, image: Floats, tilt_deg: float) -> Iterator[float]:
        """Take in an aligned view; yields the finished fraction after each iteration.

        Parameters
        ----------
        image : ndarray
            Shape (y, x'); what its vacuum shows is taken off.
        tilt_deg : float
            Its angle.
        """
        clean = image - np.float32(vacuum_level(image))
        if self._solver is not None:
            self._solver.add_view(clean, tilt_deg)
            for done in range(self.iterations_per_view):
                self._solver.step()
                self.iterations += 1
                yield (done + 1) / self.iterations_per_view
            return
        self._images.append(clean)
        self._tilts.append(tilt_deg)
        images, tilts = np.stack(self._images), np.array(self._tilts)
        self._volume = sirt(
            images, tilts, 1, slice_shape=self._shape[1:], initial=self._volume
        ).volume
        yield 1.0

    def finish(
        self,
        images: Floats,
        tilt_deg: NDArray[np.float64],
        iterations: int,
        displacement: tuple[float, float, float] = (0.0, 0.0, 0.0),
        thickness: int | None = None,
    ) -> Generator[float, None, None]:
        """Go on with the final images; yields the finished fraction after each iteration.

        Parameters
        ----------
        images : ndarray
            Shape (views, y, x'), zero in the vacuum; they replace those taken in before.
        tilt_deg : ndarray
            Their angles.
        iterations : int
            In all, those done before included.
        displacement : tuple of float
            How far (y, z, x), in voxels, the specimen lies from where the views showed it.
        thickness : int, optional
            As for the class; what is known by now.
        """
        start = np.roll(self.volume, [round(d) for d in displacement], (0, 1, 2))
        # What the old solver holds is given back before the new one takes as much.
        self._solver = None
        self._slab = _middle(self._shape[1], thickness)
        solver = self._new_solver(start)
        del start
        for image, tilt in zip(images, tilt_deg, strict=True):
            solver.add_view(image, float(tilt))
        self._solver = solver
        left = max(1, iterations - self.iterations)
        for done in range(left):
            solver.step()
            self.iterations += 1
            yield (done + 1) / left

    @property
    def residual(self) -> float:
        """Misfit before the last iteration of total-variation minimisation."""
        return float(self._solver.residual[-1]) if self._solver is not None else math.nan


def _middle(height: int, thickness: int | None) -> slice:
    """Voxels of the middle of a column, as many as are wanted; all without a wish."""
    wanted = height if thickness is None else min(thickness, height)
    # As many on either side, for the axis to stay in the middle.
    wanted += (height - wanted) % 2
    return slice((height - wanted) // 2, (height + wanted) // 2)
