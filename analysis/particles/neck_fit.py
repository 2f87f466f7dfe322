"""Necks from the images themselves: two spheres joined by a cylinder, fitted to every view.

A regularised volume rounds the crevice around a young neck and fills it with matter that is not
there, several times the neck's own; so does denoising. Counts as recorded have no such bias. So
the volume only tells where the particles are, and what else lies in the rays; then the thickness
of two spheres and a cylinder about their line of centres, blurred by a Gaussian, is fitted to the
images around the contact (Gauss-Newton with Levenberg's damping; pixels weighted by their noise).
Views a few degrees apart differ in hardly more than where they show the contact, and are averaged
about it, so that few directions are rendered.

The neck enters by the fourth power of its radius, to which its matter is proportional: below a
pixel it is the missing or surplus matter that tells the radius, no edge.

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
from .neck_kernels import add_read, blur_taps, misfit, normal_equations, render
from .neck_scene import NeckScene, Sphere

ndimage: Any = scipy_ndimage
Array = NDArray[np.float64]

# The window around a contact, in mean radii along the line of centres and across it.
_ALONG, _ACROSS = 0.9, 1.15
# Views that look nearly along the line of centres do not see the neck: |cos| at most this.
_STEEPEST, _FEWEST_VIEWS = 0.5, 6
_TOGETHER_DEG = 4.5  # views within that angle are averaged before the fit
_AT_ONCE = 2 * len(os.sched_getaffinity(0))  # pairs of one piece of work
_ELSEWHERE = 0.4  # how badly matter of other particles in a ray is known, relative
_THIRD = 0.4  # around contacts with a third particle, in mean radii: left out
_HIDDEN = 0.3  # spheres that share a wider circle (in mean radii) have lost their neck
_UNSURE = 0.15  # a neck of that relative error may have got lost: start again
_GROUPS = 7  # directions at which derivatives are taken
_FIRST_NECK = 0.27  # of the mean radius: large, for there the matter still tells the radius
_MISFIT = 2.5  # more than that many standard errors (rms around the neck): another shape
# Parameters: both centres (y, z, x), both radii, neck^4, thickness scale, blur, background.
_NECK4, _SCALE, _BLUR, _GROUND, _COUNT = 8, 9, 10, 11, 12
_STEP = 0.05  # for derivatives


@dataclass(frozen=True)
class NeckFit:
    """The neck between two spheres.

    Attributes
    ----------
    neck_radius : float
        In voxels; no less than the circle in which the spheres themselves intersect.
    error : float
        Standard error from the images' noise, in voxels.
    residual : float
        Mean residual of all views around the neck, rms, over what noise allows; 1 for a fit.
    """

    neck_radius: float
    error: float
    residual: float

    @property
    def fits(self) -> bool:
        """Whether the particles look like spheres and a cylinder near their contact."""
        return math.isfinite(self.neck_radius) and self.residual < _MISFIT


class _Pair:
    """What the images show around one contact, and the fit to it."""

    def __init__(
        self, scene: NeckScene, a: int, b: int, thirds: Sequence[Array], guess: tuple[float, float]
    ) -> None:
        one, other = scene.spheres[a], scene.spheres[b]
        ends = np.array([one.centre, other.centre]) - scene.middle
        centre = ends.mean(axis=0)
        self.radius = radius = (one.radius + other.radius) / 2
        line = ends[1] - ends[0]
        seen = scene.on_screen(line / np.linalg.norm(line))
        steepness = np.abs(seen[:, 2])
        limit = max(_STEEPEST, np.sort(steepness)[:_FEWEST_VIEWS][-1])
        views = np.flatnonzero(steepness <= limit)
        self.scene = scene
        ways = seen[views, :2] / np.linalg.norm(seen[views, :2], axis=1)[:, None]
        across = np.stack([-ways[:, 1], ways[:, 0]], axis=1)
        middles = scene.on_screen(centre)[views, :2]
        long, wide = int(_ALONG * radius), int(_ACROSS * radius)
        self.s, self.t = np.arange(-long, long + 1.0), np.arange(-wide, wide + 1.0)
        at = (
            middles[:, :, None, None]
            + ways[:, :, None, None] * self.s[:, None]
            + across[:, :, None, None] * self.t
        )
        self.elsewhere = np.zeros((len(views), self.s.size, self.t.size))
        pixels = at + scene.screen[:, None, None]
        whole = np.ascontiguousarray(scene.shown[:, views])
        add_read(whole, 1.0, pixels[:, 0], pixels[:, 1], self.elsewhere)
        for label in (a, b):
            shadow, origin = scene.shadows[label]
            local = at - origin[views][:, :, None, None]
            part = np.ascontiguousarray(shadow[:, views])
            add_read(part, -1.0, local[:, 0], local[:, 1], self.elsewhere)
        np.maximum(self.elsewhere, 0.0, out=self.elsewhere)
        self.data = -self.elsewhere
        for k, view in enumerate(views):
            self.data[k] += ndimage.map_coordinates(
                scene.curves[view], pixels[k], order=3, prefilter=False, output=np.float32
            )
        edge = 2 * scene.screen
        self.used = np.all((pixels >= 0) & (pixels <= edge[:, None, None]), axis=1)
        for point in thirds:
            here = scene.on_screen(point - scene.middle)[views, :2] - middles
            ds = self.s[:, None] - np.sum(here * ways, axis=1)[:, None, None]
            dt = self.t - np.sum(here * across, axis=1)[:, None, None]
            self.used &= ds**2 + dt**2 > (_THIRD * radius) ** 2
        # From (y, z, x) about the contact to (s, t, depth), for each view.
        turn = np.zeros((len(views), 3, 3))
        turn[:, :2, 0] = np.stack([ways[:, 0], across[:, 0]], axis=1)
        for k, columns in enumerate((ways[:, 1], across[:, 1])):
            turn[:, k, 1], turn[:, k, 2] = (
                columns * scene.sines[views],
                columns * scene.cosines[views],
            )
        turn[:, 2, 1], turn[:, 2, 2] = scene.cosines[views], -scene.sines[views]
        self.first = _firsts(scene.tilts[views])
        counts = np.diff([*self.first, len(views)])
        self.group = np.repeat(np.arange(len(counts)), counts)
        self.turn = np.add.reduceat(turn, self.first) / counts[:, None, None]
        # A small cylinder hides within the spheres, where no derivative leads out again.
        self.least = max(_FIRST_NECK * radius, guess[0])
        rest = [one.radius, other.radius, self.least**4, guess[1], 0.45, 0.0]
        self.found = np.concatenate([(ends - centre).ravel(), rest])
        self.error = math.inf

    def _model(self, p: Array, which: NDArray[np.intp] | slice = slice(None)) -> Array:
        """Images of the pair in some of the directions, shape (directions, s, t)."""
        turn = self.turn[which]
        bodies = np.empty((len(turn), 9))
        bodies[:, 0:3], bodies[:, 4:7] = turn @ p[:3], turn @ p[3:6]
        bodies[:, 3], bodies[:, 7], bodies[:, 8] = p[6], p[7], max(p[_NECK4], 0.0) ** 0.25
        out = np.empty((len(turn), self.s.size, self.t.size))
        render(self.s[0], self.t[0], bodies, blur_taps(p[_BLUR]), out)
        out *= p[_SCALE]
        out += p[_GROUND]
        return out

    def fit(self, means: Array, weights: Array, rounds: int) -> None:
        """Improve `found`; `means` and `weights` are what is known of the parameters before."""
        p = self.found.copy()
        if self.error > _UNSURE * p[_NECK4] ** 0.25:
            p[_NECK4] = max(p[_NECK4], self.least**4)
        many = len(self.turn)
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
            return misfit(self.weights, data, made) + float(weights @ (q - means) ** 2)

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
        """No leaps of the neck, and nothing that is no pair of spheres."""
        new[6:8] = np.clip(new[6:8], 0.7 * old[6:8], 1.4 * old[6:8])
        thickest = (0.95 * min(new[6], new[7])) ** 4
        new[_NECK4] = np.clip(new[_NECK4], 0.4 * old[_NECK4], 2.5 * old[_NECK4])
        new[_NECK4] = np.clip(new[_NECK4], 1.0, thickest)
        new[_SCALE] = np.clip(new[_SCALE], 0.5 * old[_SCALE], 2 * old[_SCALE])
        new[_BLUR] = np.clip(new[_BLUR], 0.25, 2.0)
        return new

    def contact(self) -> NeckFit:
        """The neck as it stands."""
        p = self.found
        a, b = p[6], p[7]
        far = float(np.linalg.norm(p[3:6] - p[:3]))
        plane = (far**2 + a**2 - b**2) / (2 * far)
        overlap = math.sqrt(max(0.0, a**2 - plane**2)) if far < a + b else 0.0
        near = (np.abs(self.s) < 0.35 * self.radius)[:, None] & (np.abs(self.t) < 0.5 * self.radius)
        weight = self.weights.sum(axis=0)
        score = (self.weights * self.rest).sum(axis=0) / np.sqrt(np.maximum(weight, 1e-30))
        near &= weight > 0
        misfit = math.sqrt(float((score[near] ** 2).mean())) if near.any() else math.inf
        neck = float(p[_NECK4]) ** 0.25
        if neck < overlap and overlap > _HIDDEN * self.radius:
            misfit = math.inf
        return NeckFit(max(neck, overlap), self.error, misfit)


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
    """Fit the neck of each pair, a few at a time.

    What all pairs have in common, the blur and the thickness scale, is found from each alone, and
    then again with what the others found held against it.

    Parameters
    ----------
    scene : NeckScene
        The images.
    pairs : mapping of (int, int) to float
        Labels of particles in contact, and about how wide their neck is at most (radius).
    level : float
        Value of a voxel of solid matter.

    Yields
    ------
    float
        Finished fraction.

    Returns
    -------
    dict
        By the pair.
    """
    touching: dict[tuple[int, int], list[Array]] = {}
    for a, b in pairs:
        touching[a, b] = [
            _touch(scene.spheres[m], scene.spheres[n])
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
        # Most of what pairs differ by is the noise of their images.
        spread = 0.05 * np.median(np.abs(common - centre), axis=0)
        means[[_SCALE, _BLUR]] = centre
        weights[[_SCALE, _BLUR]] = 1 / np.maximum(spread, 1e-3 * centre) ** 2
        for batch in batches:
            in_threads(together, batch)
            yield 0.7 + 0.3 * batch.stop / len(names)
    return {pair: fits[number].contact() for number, pair in enumerate(names)}


def _touch(one: Sphere, other: Sphere) -> Array:
    """Where two spheres meet."""
    share = one.radius / (one.radius + other.radius)
    return one.centre + share * (other.centre - one.centre)
