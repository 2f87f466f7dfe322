"""Neck fit: two spheres joined by a cylinder, fitted to all views of a contact.

A regularised volume fills the crevice around a young neck with several times the neck's own
matter, and so does denoising. Counts as recorded do not have this bias. Therefore the volume gives
only the positions of the particles and the matter of other particles in the rays. The thickness of
two spheres and a cylinder about their line of centres, blurred by a Gaussian, is fitted to the
images around the contact (Gauss-Newton with the damping of Levenberg, Quart. Appl. Math. 2, 164,
1944; pixels weighted by their noise). Views a few degrees apart are averaged about the contact, so
that few directions are rendered.

The parameter of the neck is the fourth power of its radius, to which its matter is proportional:
below a pixel the radius follows from the amount of matter, not from an edge.

Lengths are in voxels, which are as wide as the pixels.
"""
# scipy.ndimage is untyped.
# pyright: basic

from __future__ import annotations

import math
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as scipy_ndimage

from ..core.arrays import in_threads
from .neck_kernels import add_interpolated, blur_taps, normal_equations, render, weighted_squares
from .neck_scene import NeckScene, Sphere

ndimage: Any = scipy_ndimage
Array = NDArray[np.float64]

# The window around a contact, in mean radii along the line of centres and across it.
_ALONG, _ACROSS = 0.9, 1.15
# Views nearly along the line of centres do not see the neck: |cos| at most this.
_STEEPEST, _MIN_VIEWS = 0.5, 6
_TOGETHER_DEG = 4.5  # views within that angle are averaged before the fit
_AT_ONCE = 2 * len(os.sched_getaffinity(0))  # pairs of one piece of work
_ELSEWHERE = 0.4  # relative uncertainty of the matter of other particles in a ray
_THIRD = 0.4  # around contacts with a third particle, in mean radii: left out
_HIDDEN = 0.3  # spheres that intersect in a wider circle (in mean radii) have no neck
_UNSURE = 0.15  # a neck of greater relative error starts again
_GROUPS = 7  # directions at which derivatives are taken
_FIRST_NECK = 0.27  # of the mean radius: large enough for the derivative not to vanish
_MAX_RESIDUAL = 2.5  # standard errors (rms around the neck); more means another shape
# Parameters: both centres (y, z, x), both radii, neck^4, thickness scale, blur, background.
_NECK4, _SCALE, _BLUR, _GROUND, _COUNT = 8, 9, 10, 11, 12
_STEP = 0.05  # for derivatives


@dataclass(frozen=True)
class NeckFit:
    """Fitted neck between two spheres.

    Attributes
    ----------
    neck_radius : float
        In voxels; not less than the circle in which the spheres intersect.
    error : float
        Standard error from the noise of the images, in voxels.
    residual : float
        Rms residual around the neck, averaged over the views, in standard errors of the noise;
        about 1 for a good fit.
    """

    neck_radius: float
    error: float
    residual: float

    @property
    def fits(self) -> bool:
        """Whether two spheres and a cylinder explain the images near the contact."""
        return math.isfinite(self.neck_radius) and self.residual < _MAX_RESIDUAL


class _Pair:
    """The images around one contact, and the fit to them."""

    def __init__(
        self,
        scene: NeckScene,
        a: int,
        b: int,
        third_contacts: Sequence[Array],
        guess: tuple[float, float],
    ) -> None:
        one, other = scene.spheres[a], scene.spheres[b]
        ends = np.array([one.centre, other.centre]) - scene.centre
        centre = ends.mean(axis=0)
        self.scene, self.radius = scene, (one.radius + other.radius) / 2
        views, along, across = self._directions(ends[1] - ends[0])
        centres = scene.in_images(centre)[views, :2]
        long, wide = int(_ALONG * self.radius), int(_ACROSS * self.radius)
        self.s, self.t = np.arange(-long, long + 1.0), np.arange(-wide, wide + 1.0)
        points = (
            centres[:, :, None, None]
            + along[:, :, None, None] * self.s[:, None]
            + across[:, :, None, None] * self.t
        )
        pixels = points + scene.image_centre[:, None, None]
        self._read_images(views, pixels, points, (a, b))
        self._select_pixels(views, pixels, along, across, centres, third_contacts)
        self._average_directions(views, along, across)
        # A small cylinder is hidden within the spheres, where the derivative is zero.
        self.least = max(_FIRST_NECK * self.radius, guess[0])
        rest = [one.radius, other.radius, self.least**4, guess[1], 0.45, 0.0]
        self.found = np.concatenate([(ends - centre).ravel(), rest])
        self.error = math.inf

    def _directions(self, line: Array) -> tuple[NDArray[np.intp], Array, Array]:
        """Views that see the neck, and unit vectors along and across the line of centres."""
        direction = self.scene.in_images(line / np.linalg.norm(line))
        steepness = np.abs(direction[:, 2])
        limit = max(_STEEPEST, np.sort(steepness)[:_MIN_VIEWS][-1])
        views = np.flatnonzero(steepness <= limit)
        along = direction[views, :2] / np.linalg.norm(direction[views, :2], axis=1)[:, None]
        return views, along, np.stack([-along[:, 1], along[:, 0]], axis=1)

    def _read_images(
        self, views: NDArray[np.intp], pixels: Array, points: Array, labels: Sequence[int]
    ) -> None:
        """Interpolate the images and the thickness of all other particles in the window."""
        scene = self.scene
        self.elsewhere = np.zeros((len(views), self.s.size, self.t.size))
        whole = np.ascontiguousarray(scene.projected[:, views])
        add_interpolated(whole, 1.0, pixels[:, 0], pixels[:, 1], self.elsewhere)
        for label in labels:
            projected, origin = scene.particles[label]
            local = points - origin[views][:, :, None, None]
            part = np.ascontiguousarray(projected[:, views])
            add_interpolated(part, -1.0, local[:, 0], local[:, 1], self.elsewhere)
        np.maximum(self.elsewhere, 0.0, out=self.elsewhere)
        self.data = -self.elsewhere
        for k, view in enumerate(views):
            self.data[k] += ndimage.map_coordinates(
                scene.coefficients[view], pixels[k], order=3, prefilter=False, output=np.float32
            )

    def _select_pixels(
        self,
        views: NDArray[np.intp],
        pixels: Array,
        along: Array,
        across: Array,
        centres: Array,
        third_contacts: Sequence[Array],
    ) -> None:
        """Leave out pixels that were not measured, and those around contacts with a third one."""
        scene = self.scene
        edge = 2 * scene.image_centre
        self.used = np.all((pixels >= 0) & (pixels <= edge[:, None, None]), axis=1)
        if scene.measured is not None:
            last = (edge + 0.5).astype(int)
            rows, columns = (
                np.clip(np.round(pixels[:, k]).astype(int), 0, last[k]) for k in (0, 1)
            )
            self.used &= scene.measured[views[:, None, None], rows, columns]
        for point in third_contacts:
            here = scene.in_images(point - scene.centre)[views, :2] - centres
            ds = self.s[:, None] - np.sum(here * along, axis=1)[:, None, None]
            dt = self.t - np.sum(here * across, axis=1)[:, None, None]
            self.used &= ds**2 + dt**2 > (_THIRD * self.radius) ** 2

    def _average_directions(self, views: NDArray[np.intp], along: Array, across: Array) -> None:
        """Group neighbouring views and average their rotations."""
        scene = self.scene
        # From (y, z, x) about the contact to (s, t, depth), for each view.
        rotations = np.zeros((len(views), 3, 3))
        rotations[:, :2, 0] = np.stack([along[:, 0], across[:, 0]], axis=1)
        for k, columns in enumerate((along[:, 1], across[:, 1])):
            rotations[:, k, 1], rotations[:, k, 2] = (
                columns * scene.sines[views],
                columns * scene.cosines[views],
            )
        rotations[:, 2, 1], rotations[:, 2, 2] = scene.cosines[views], -scene.sines[views]
        self.first = _firsts(scene.tilts[views])
        counts = np.diff([*self.first, len(views)])
        self.group = np.repeat(np.arange(len(counts)), counts)
        self.rotations = np.add.reduceat(rotations, self.first) / counts[:, None, None]

    def _model(self, p: Array, which: NDArray[np.intp] | slice = slice(None)) -> Array:
        """Images of the pair in some of the directions, shape (directions, s, t)."""
        rotations = self.rotations[which]
        bodies = np.empty((len(rotations), 9))
        bodies[:, 0:3], bodies[:, 4:7] = rotations @ p[:3], rotations @ p[3:6]
        bodies[:, 3], bodies[:, 7], bodies[:, 8] = p[6], p[7], max(p[_NECK4], 0.0) ** 0.25
        out = np.empty((len(rotations), self.s.size, self.t.size))
        render(self.s[0], self.t[0], bodies, blur_taps(p[_BLUR]), out)
        out *= p[_SCALE]
        out += p[_GROUND]
        return out

    def fit(self, means: Array, weights: Array, rounds: int) -> None:
        """Improve `found`; `means` and `weights` are the prior of the parameters."""
        p = self.found.copy()
        if self.error > _UNSURE * p[_NECK4] ** 0.25:
            p[_NECK4] = max(p[_NECK4], self.least**4)
        many = len(self.rotations)
        groups = min(_GROUPS, many)
        group = np.arange(many) * groups // many
        first = np.searchsorted(group, np.arange(groups))
        chosen = (first + np.searchsorted(group, np.arange(groups), side="right")) // 2
        floor, rise = self.scene.noise
        model = self._model(p)
        variance = floor + rise * np.maximum(model[self.group] + self.elsewhere, 0.0)
        each = np.where(self.used, 1 / (variance + (_ELSEWHERE * self.elsewhere) ** 2), 0.0)
        self.weights = np.add.reduceat(each, self.first)
        data = np.add.reduceat(each * self.data, self.first) / np.maximum(self.weights, 1e-30)
        summed = np.add.reduceat(self.weights, first)

        def cost(q: Array, made: Array) -> float:
            return weighted_squares(self.weights, data, made) + float(weights @ (q - means) ** 2)

        best, damping = cost(p, model), 1e-4
        for _ in range(rounds):
            here = self._model(p, chosen)
            slopes = np.empty((_COUNT, here.size))
            slopes[_SCALE], slopes[_GROUND] = ((here - p[_GROUND]) / p[_SCALE]).ravel(), 1.0
            for k in (*range(_NECK4 + 1), _BLUR):
                q = p.copy()
                step = max(0.3 * p[_NECK4], 20.0) if k == _NECK4 else _STEP
                q[k] += step
                slopes[k] = ((self._model(q, chosen) - here) / step).ravel()
            pull = np.add.reduceat(self.weights * (data - model), first).ravel()
            matrix, force = np.empty((_COUNT, _COUNT)), np.empty(_COUNT)
            normal_equations(slopes, summed.ravel(), pull, matrix, force)
            matrix += np.diag(weights)
            force -= weights * (p - means)
            before, moved = best, p
            for _ in range(5):
                damped = matrix + np.diag(damping * np.diag(matrix) + 1e-9)
                q = self._bounded(p, p + np.linalg.solve(damped, force))
                made = self._model(q)
                now = cost(q, made)
                if now < best:
                    p, best, model = q, now, made
                    damping = max(damping / 10, 1e-7)
                    break
                damping = max(10 * damping, 1e-3)
            if before - best < 0.05 and abs(p[_NECK4] - moved[_NECK4]) < 0.02 * p[_NECK4]:
                break
        self.found, self.rest = p, data - model
        spread = np.linalg.pinv(matrix, hermitian=True)[_NECK4, _NECK4]
        self.error = math.sqrt(max(float(spread), 0.0)) / (4 * p[_NECK4] ** 0.75)

    @staticmethod
    def _bounded(old: Array, new: NDArray[Any]) -> Array:
        """Limit the step of the parameters, and the neck to the smaller sphere."""
        new[6:8] = np.clip(new[6:8], 0.7 * old[6:8], 1.4 * old[6:8])
        thickest = (0.95 * min(new[6], new[7])) ** 4
        new[_NECK4] = np.clip(new[_NECK4], 0.4 * old[_NECK4], 2.5 * old[_NECK4])
        new[_NECK4] = np.clip(new[_NECK4], 1.0, thickest)
        new[_SCALE] = np.clip(new[_SCALE], 0.5 * old[_SCALE], 2 * old[_SCALE])
        new[_BLUR] = np.clip(new[_BLUR], 0.25, 2.0)
        return new

    def result(self) -> NeckFit:
        """The fitted neck."""
        p = self.found
        a, b = p[6], p[7]
        far = float(np.linalg.norm(p[3:6] - p[:3]))
        plane = (far**2 + a**2 - b**2) / (2 * far)
        overlap = math.sqrt(max(0.0, a**2 - plane**2)) if far < a + b else 0.0
        near = (np.abs(self.s) < 0.35 * self.radius)[:, None] & (np.abs(self.t) < 0.5 * self.radius)
        weight = self.weights.sum(axis=0)
        score = (self.weights * self.rest).sum(axis=0) / np.sqrt(np.maximum(weight, 1e-30))
        near &= weight > 0
        residual = math.sqrt(float((score[near] ** 2).mean())) if near.any() else math.inf
        neck = float(p[_NECK4]) ** 0.25
        if neck < overlap and overlap > _HIDDEN * self.radius:
            residual = math.inf
        return NeckFit(max(neck, overlap), self.error, residual)


def _firsts(tilts: Array) -> NDArray[np.intp]:
    """First view of each group of neighbouring ones."""
    firsts = [0]
    for k, tilt in enumerate(tilts):
        if tilt - tilts[firsts[-1]] > _TOGETHER_DEG:
            firsts.append(k)
    return np.array(firsts)


def iter_fit_necks(
    scene: NeckScene, pairs: Mapping[tuple[int, int], float], level: float
) -> Generator[float, None, dict[tuple[int, int], NeckFit]]:
    """Fit the neck of each pair, a few pairs at a time.

    Blur and thickness scale are common to all pairs. Each pair is fitted alone, and then again
    with the median of all pairs as a prior of these two.

    Parameters
    ----------
    scene : NeckScene
        Projections and noise.
    pairs : mapping of (int, int) to float
        For the labels of each pair an approximate upper limit of the neck radius, in voxels.
    level : float
        Value of a voxel of solid matter.

    Yields
    ------
    float
        Finished fraction.

    Returns
    -------
    dict
        Fits by the labels of the pair.
    """
    touching: dict[tuple[int, int], list[Array]] = {}
    for a, b in pairs:
        touching[a, b] = [
            _contact_point(scene.spheres[m], scene.spheres[n])
            for one, other in pairs
            for m, n in ((one, other), (other, one))
            if m in (a, b) and n not in (a, b)
        ]
    names = list(pairs)
    fits: dict[int, _Pair] = {}
    means, weights = np.zeros(_COUNT), np.zeros(_COUNT)

    def alone(number: int) -> None:
        pair = names[number]
        fits[number] = _Pair(scene, *pair, touching[pair], (pairs[pair], level))
        fits[number].fit(means, weights, 12)

    def together(number: int) -> None:
        fits[number].fit(means, weights, 8)

    batches = [range(k, min(k + _AT_ONCE, len(names))) for k in range(0, len(names), _AT_ONCE)]
    for batch in batches:
        in_threads(alone, batch)
        yield 0.7 * batch.stop / len(names)
    if len(fits) > 2:
        common = np.array([fit.found[[_SCALE, _BLUR]] for fit in fits.values()])
        centre = np.median(common, axis=0)
        # Most of the difference between pairs is noise.
        spread = 0.05 * np.median(np.abs(common - centre), axis=0)
        means[[_SCALE, _BLUR]] = centre
        weights[[_SCALE, _BLUR]] = 1 / np.maximum(spread, 1e-3 * centre) ** 2
        for batch in batches:
            in_threads(together, batch)
            yield 0.7 + 0.3 * batch.stop / len(names)
    return {pair: fits[number].result() for number, pair in enumerate(names)}


def _contact_point(one: Sphere, other: Sphere) -> Array:
    """Point of contact of two spheres."""
    share = one.radius / (one.radius + other.radius)
    return one.centre + share * (other.centre - one.centre)
