"""What the images of a specimen show of its particles, each alone and all together.

Lengths are in voxels, which are as wide as the pixels.
"""
# scipy.ndimage is untyped.
# pyright: basic

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as scipy_ndimage

from ..core.arrays import Floats, in_threads, zeros
from ..tomography.projector import LANES, Geometry, blocks_of, project, slices_of
from .segmentation import Labels, bounding_box, dilation

ndimage: Any = scipy_ndimage
Array = NDArray[np.float64]

_RIM = 4  # voxels around a label that are still its own
_AT_ONCE = 4 * len(os.sched_getaffinity(0))  # particles of one piece of work
_ROWS = LANES * len(os.sched_getaffinity(0))  # slices of one piece of work


@dataclass(frozen=True)
class Sphere:
    """Where a particle is: label, centre (y, z, x) and radius in voxels."""

    label: int
    centre: Array
    radius: float


class NeckScene:
    """Images of one specimen and a volume reconstructed from them, as :meth:`build` makes it.

    Attributes
    ----------
    tilts, cosines, sines : ndarray
        Angles in degrees, in rising order like all views here, and their functions.
    spheres : dict
        Where each particle is, by label.
    middle, screen : ndarray
        Of the volume (y, z, x) and of an image (row, column).
    noise : tuple of float
        Variance of the images in vacuum, and its rise with the thickness.
    shown : ndarray
        Projections of all particles, shape (y, angles, x').
    curves : list of ndarray
        Spline coefficients of each image, its vacuum at 0.
    shadows : dict
        By label: projections of a particle alone, shape (rows, angles, columns), and row and
        column of their first pixel from the middle of the image, shape (angles, 2).
    """

    @classmethod
    def build(
        cls,
        volume: NDArray[Any],
        labels: Labels,
        images: NDArray[Any],
        tilt_deg: NDArray[Any],
        spheres: Iterable[Sphere],
    ) -> Generator[float, None, NeckScene]:
        """Look at a specimen, in small pieces of work.

        Parameters
        ----------
        volume, labels : ndarray
            Shape (y, z, x); labels from :func:`~.segment.segment`.
        images : ndarray
            Shape (angles, y, x'), aligned, in the unit of which the volume holds so much per voxel.
        tilt_deg : ndarray
            Angles, shape (angles,).
        spheres : iterable of Sphere
            All particles.

        Yields
        ------
        float
            Finished fraction.

        Returns
        -------
        NeckScene
            What is seen.

        Raises
        ------
        ValueError
            If images, angles and volume do not belong together.
        """
        tilts = np.asarray(tilt_deg, np.float64)
        if images.ndim != 3 or len(images) != tilts.size or images.shape[1] != volume.shape[0]:
            raise ValueError(
                f"images {images.shape}, {tilts.size} angles and volume {volume.shape} do not "
                "belong together; (angles, y, x'), (angles,) and (y, z, x) are needed"
            )
        order = np.argsort(tilts, kind="stable")
        images = images[order]
        scene = cls(tilts[order], volume.shape, images.shape, spheres)
        box = bounding_box(labels > 0, 2 * _RIM)
        owner = dilation(np.ascontiguousarray(labels[box], np.int32), _RIM)
        matter = np.where(owner > 0, volume[box], np.float32(0))
        yield 0.1
        rows, deep, broad = box
        # Slices stay centred when as much vacuum is left out above as below.
        margin = min(deep.start, volume.shape[1] - deep.stop)
        held = slice(deep.start - margin, deep.stop - margin)
        shown = np.zeros(images.shape, np.float32)
        for first in range(rows.start, rows.stop, _ROWS):
            part = matter[first - rows.start : first - rows.start + _ROWS]
            slab = np.zeros((len(part), volume.shape[1] - 2 * margin, volume.shape[2]), np.float32)
            slab[:, held, broad] = part
            shown[:, first : first + len(part)] = project(slab, scene.tilts, images.shape[2])
            yield 0.1 + 0.3 * (first + len(part) - rows.start) / (rows.stop - rows.start)
        rest = images - shown
        vacuum = shown < 0.02 * np.percentile(shown[:, ::2, ::2], 99.5)
        levels = [float(r[v].mean()) if v.any() else 0.0 for r, v in zip(rest, vacuum, strict=True)]
        rest -= np.array(levels, np.float32)[:, None, None]
        yield 0.5
        # Noise of counted electrons: a variance that rises with the thickness.
        squares = rest**2
        all_s = float(squares.sum(dtype=float))
        dark_s = float(squares.sum(where=vacuum, dtype=float))
        depth = float(shown.sum(where=~vacuum, dtype=float))
        inside = np.count_nonzero(~vacuum)
        dark = dark_s / max(1, squares.size - inside)
        rise = max(0.0, all_s - dark_s - inside * dark) / depth if inside else 0.0
        whole = all_s / squares.size
        scene.noise = max(dark, 0.05 * whole, 1e-6 * float(shown.max(initial=1e-3)) ** 2), rise
        scene.shown = np.ascontiguousarray(shown.transpose(1, 0, 2))
        yield 0.6
        scene.curves = [
            ndimage.spline_filter(image - level, 3, output=np.float32)
            for image, level in zip(images, levels, strict=True)
        ]
        yield 0.7
        corner = np.array([part.start for part in box], np.float64)
        places = ndimage.find_objects(owner)
        for first in range(0, len(places), _AT_ONCE):
            in_threads(
                lambda n: scene.cast(n + 1, places[n], owner, matter, corner),
                [n for n in range(first, min(first + _AT_ONCE, len(places))) if places[n]],
            )
            yield 0.7 + 0.3 * min(1.0, (first + _AT_ONCE) / len(places))
        return scene

    def __init__(
        self,
        tilts: Array,
        volume_shape: Sequence[int],
        images_shape: Sequence[int],
        spheres: Iterable[Sphere],
    ) -> None:
        self.tilts = tilts
        self.spheres = {ball.label: ball for ball in spheres}
        self.middle = (np.array(volume_shape) - 1) / 2
        self.screen = (np.array(images_shape[1:]) - 1) / 2
        self.cosines, self.sines = np.cos(np.radians(tilts)), np.sin(np.radians(tilts))
        self.noise = (0.0, 0.0)
        self.shown: Floats = np.empty((0, 0, 0), np.float32)
        self.curves: list[Floats] = []
        self.shadows: dict[int, tuple[Floats, Array]] = {}

    def cast(
        self, label: int, place: Any, owner: Labels, matter: NDArray[Any], corner: Array
    ) -> None:
        """Project one particle alone: its shadow."""
        part = np.where(owner[place] == label, matter[place], np.float32(0))
        tall, height, width = part.shape
        geometry = Geometry(self.tilts, math.ceil(math.hypot(height, width)) + 2, height, width)
        blocks = blocks_of(part)
        seen = zeros((len(blocks), geometry.angles, geometry.detector, LANES))
        for block, sinogram in zip(blocks, seen, strict=True):
            geometry.project(block, sinogram)
        start = corner + [side.start for side in place]
        middle = self.on_screen(start + (np.array(part.shape) - 1) / 2 - self.middle)[:, :2]
        origin = middle - (np.array([tall, geometry.detector]) - 1) / 2
        self.shadows[label] = np.ascontiguousarray(slices_of(seen, tall)), origin

    def on_screen(self, point: Array) -> Array:
        """(row, column, depth) of a point (y, z, x) from the middle in every view: (angles, 3)."""
        y, z, x = point
        column = x * self.cosines + z * self.sines
        depth = z * self.cosines - x * self.sines
        return np.stack([np.full_like(column, y), column, depth], axis=1)
