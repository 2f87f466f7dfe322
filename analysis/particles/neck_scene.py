"""Projections of the particles of a specimen, each alone and all together, for the neck fit.

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
from ..core.progress import scaled_progress
from ..core.weights import checked_weights
from ..tomography.projector import LANES, Geometry, blocks_of, project, slices_of
from .segmentation import Labels, bounding_box, dilation

ndimage: Any = scipy_ndimage
Array = NDArray[np.float64]

_MIN_MEASURED = 0.5  # share of a pixel that must be measured for it to count
_RIM = 4  # voxels around a label that belong to it
_AT_ONCE = 4 * len(os.sched_getaffinity(0))  # particles of one piece of work
_ROWS = LANES * len(os.sched_getaffinity(0))  # slices of one piece of work


@dataclass(frozen=True)
class Sphere:
    """A particle as a sphere: label, centre (y, z, x) and radius in voxels."""

    label: int
    centre: Array
    radius: float


class NeckScene:
    """Projections and noise of one specimen; made by :meth:`build`.

    Attributes
    ----------
    tilts, cosines, sines : ndarray
        Angles in degrees in rising order, their cosines and sines.
    spheres : dict
        Each particle as a sphere, by label.
    centre, image_centre : ndarray
        Centre of the volume (y, z, x) and of an image (row, column).
    noise : tuple of float
        Variance of the images in vacuum, and its rise with the thickness.
    measured : ndarray of bool or None
        Pixels of which at least half was measured, shape (angles, y, x'); None for all.
    projected : ndarray
        Projections of all particles, shape (y, angles, x').
    coefficients : list of ndarray
        Spline coefficients of each image, its vacuum at 0.
    particles : dict
        By label: projections of one particle, shape (rows, angles, columns), and row and column
        of their first pixel from the centre of the image, shape (angles, 2).
    """

    @classmethod
    def build(
        cls,
        volume: NDArray[Any],
        labels: Labels,
        images: NDArray[Any],
        tilt_deg: NDArray[Any],
        spheres: Iterable[Sphere],
        weights: NDArray[Any] | None = None,
    ) -> Generator[float, None, NeckScene]:
        """Project the particles of a specimen, in small pieces of work.

        Parameters
        ----------
        volume, labels : ndarray
            Shape (y, z, x); labels from :func:`.segmentation.segment`.
        images : ndarray
            Shape (angles, y, x'), aligned, in the unit of the volume times voxel sides.
        tilt_deg : ndarray
            Angles in degrees, shape (angles,).
        spheres : iterable of Sphere
            All particles.
        weights : ndarray, optional
            Share of each pixel that was measured, shape of the images; by default all 1.

        Yields
        ------
        float
            Finished fraction.

        Returns
        -------
        NeckScene
            As the generator's return value.

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
        weights = checked_weights(weights, images.shape)
        scene = cls(tilts[order], volume.shape, images.shape, spheres)
        if weights is not None:
            scene.measured = weights[order] >= _MIN_MEASURED
        box = bounding_box(labels > 0, 2 * _RIM)
        owner = dilation(np.ascontiguousarray(labels[box], np.int32), _RIM)
        matter = np.where(owner > 0, volume[box], np.float32(0))
        yield 0.1
        projected = yield from scaled_progress(
            0.1, 0.4, scene._iter_project(matter, box, volume.shape, images.shape)
        )
        levels = scene._measure_noise(images, projected)
        yield 0.6
        scene.coefficients = [
            ndimage.spline_filter(image - level, 3, output=np.float32)
            for image, level in zip(images, levels, strict=True)
        ]
        yield 0.7
        corner = np.array([part.start for part in box], np.float64)
        boxes = ndimage.find_objects(owner)
        for first in range(0, len(boxes), _AT_ONCE):
            in_threads(
                lambda n: scene.project_particle(n + 1, boxes[n], owner, matter, corner),
                [n for n in range(first, min(first + _AT_ONCE, len(boxes))) if boxes[n]],
            )
            yield 0.7 + 0.3 * min(1.0, (first + _AT_ONCE) / len(boxes))
        return scene

    def _iter_project(
        self,
        matter: NDArray[Any],
        box: Sequence[slice],
        volume_shape: Sequence[int],
        images_shape: Sequence[int],
    ) -> Generator[float, None, Floats]:
        """Project all particles, some slices at a time; returns shape (angles, y, x')."""
        rows, deep, broad = box
        # Slices stay centred when the same number of voxels is left out above and below.
        margin = min(deep.start, volume_shape[1] - deep.stop)
        occupied = slice(deep.start - margin, deep.stop - margin)
        projected = np.zeros(tuple(images_shape), np.float32)
        for first in range(rows.start, rows.stop, _ROWS):
            part = matter[first - rows.start : first - rows.start + _ROWS]
            slices = np.zeros(
                (len(part), volume_shape[1] - 2 * margin, volume_shape[2]), np.float32
            )
            slices[:, occupied, broad] = part
            projected[:, first : first + len(part)] = project(slices, self.tilts, images_shape[2])
            yield (first + len(part) - rows.start) / (rows.stop - rows.start)
        return projected

    def _measure_noise(self, images: NDArray[Any], projected: Floats) -> list[float]:
        """Set the noise model; returns the vacuum level of each image."""
        rest = images - projected
        vacuum = projected < 0.02 * np.percentile(projected[:, ::2, ::2], 99.5)
        matter = ~vacuum
        if self.measured is not None:
            vacuum &= self.measured
            matter &= self.measured
        levels = [float(r[v].mean()) if v.any() else 0.0 for r, v in zip(rest, vacuum, strict=True)]
        rest -= np.array(levels, np.float32)[:, None, None]
        # Noise of counted electrons: a variance that rises with the thickness.
        squares = rest**2
        if self.measured is not None:
            squares[~self.measured] = 0
        all_s = float(squares.sum(dtype=float))
        dark_s = float(squares.sum(where=vacuum, dtype=float))
        depth = float(projected.sum(where=matter, dtype=float))
        inside, outside = np.count_nonzero(matter), np.count_nonzero(vacuum)
        dark = dark_s / max(1, outside)
        rise = max(0.0, all_s - dark_s - inside * dark) / depth if depth > 0 else 0.0
        whole = all_s / max(1, inside + outside)
        least = 1e-6 * float(projected.max(initial=1e-3)) ** 2
        self.noise = max(dark, 0.05 * whole, least), rise
        self.projected = np.ascontiguousarray(projected.transpose(1, 0, 2))
        return levels

    def __init__(
        self,
        tilts: Array,
        volume_shape: Sequence[int],
        images_shape: Sequence[int],
        spheres: Iterable[Sphere],
    ) -> None:
        self.tilts = tilts
        self.spheres = {sphere.label: sphere for sphere in spheres}
        self.centre = (np.array(volume_shape) - 1) / 2
        self.image_centre = (np.array(images_shape[1:]) - 1) / 2
        self.cosines, self.sines = np.cos(np.radians(tilts)), np.sin(np.radians(tilts))
        self.noise = (0.0, 0.0)
        self.measured: NDArray[np.bool_] | None = None
        self.projected: Floats = np.empty((0, 0, 0), np.float32)
        self.coefficients: list[Floats] = []
        self.particles: dict[int, tuple[Floats, Array]] = {}

    def project_particle(
        self, label: int, box: Any, owner: Labels, matter: NDArray[Any], corner: Array
    ) -> None:
        """Project one particle alone."""
        part = np.where(owner[box] == label, matter[box], np.float32(0))
        tall, height, width = part.shape
        geometry = Geometry(self.tilts, math.ceil(math.hypot(height, width)) + 2, height, width)
        blocks = blocks_of(part)
        sinograms = zeros((len(blocks), geometry.angles, geometry.detector, LANES))
        for block, sinogram in zip(blocks, sinograms, strict=True):
            geometry.project(block, sinogram)
        start = corner + [side.start for side in box]
        centre = self.in_images(start + (np.array(part.shape) - 1) / 2 - self.centre)[:, :2]
        origin = centre - (np.array([tall, geometry.detector]) - 1) / 2
        self.particles[label] = np.ascontiguousarray(slices_of(sinograms, tall)), origin

    def in_images(self, point: Array) -> Array:
        """Row, column and depth from the centre of a point (y, z, x) in every view: (angles, 3)."""
        y, z, x = point
        column = x * self.cosines + z * self.sines
        depth = z * self.cosines - x * self.sines
        return np.stack([np.full_like(column, y), column, depth], axis=1)
