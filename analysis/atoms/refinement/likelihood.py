"""Poisson likelihood of the recorded counts: value, gradient, Fisher information.

The expected counts of view k are ``b + g (A + tail * (A * B))``: A are Gaussian peaks and B is a
wide Gaussian. In products with the Fisher information the tail is left out: it is smooth, and there
it says little about where an atom is. Views are worked on in threads; sums are taken in the order
of the views, so that results do not depend on the number of cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.arrays import Floats, in_threads
from . import kernels
from .model import (
    BACKGROUND,
    COLUMN,
    GAIN,
    ROW,
    TILT,
    AtomModel,
    Floats64,
    Places,
    Step,
    Views,
    places,
    window,
)

_TAIL_REACH = 3.0
ImageOf = Callable[[int], Floats]


@dataclass
class Expected:
    """What a model expects of the counts.

    Attributes
    ----------
    means : ndarray
        Float32, shape of the padded views: expected counts, 0 where a pixel is not known.
    log_likelihood : float
        Poisson log likelihood, without the term of the counts alone.
    peaks : ndarray
        Float32, shape of the padded views: sums of the narrow peaks.
    """

    means: Floats
    log_likelihood: float
    peaks: Floats


def blur_kernel(width: float) -> Floats:
    """Half of a Gaussian kernel of sum 1, from its centre."""
    reach = max(1, math.ceil(_TAIL_REACH * width))
    values = np.exp(-0.5 * (np.arange(reach + 1) / width) ** 2)
    return (values / (2 * values.sum() - values[0])).astype(np.float32)


def blurred(image: Floats, kernel: Floats) -> Floats:
    """Convolve an image with a separable kernel; beyond the border it is 0."""
    out = np.empty_like(image)
    kernels.blur(image, kernel, np.empty_like(image), out)
    return out


def expect(views: Views, model: AtomModel) -> Expected:
    """Expected counts of all views.

    Parameters
    ----------
    views : Views
        The recorded counts.
    model : AtomModel
        The model.

    Returns
    -------
    Expected
        Means, log likelihood and peaks.
    """
    shape = views.counts.shape
    peaks, means = np.zeros(shape, np.float32), np.empty(shape, np.float32)
    parts = np.zeros(views.size)
    tall, wide = window(model.width)
    kernel = blur_kernel(model.tail_width)
    none = np.zeros(model.size)

    def one(k: int) -> None:
        at = places(model, k, views.centre)
        kernels.draw(
            at.rows, at.columns, model.heights, none, none, model.width, tall, wide, peaks[k]
        )
        tails = blurred(peaks[k], kernel) if model.tail else peaks[k]
        kernels.expected(
            peaks[k], tails, model.tail, at.gain, model.background[k], views.floor[k],
            views.known[k], means[k],
        )  # fmt: skip
        parts[k] = kernels.log_likelihood(views.counts[k], means[k])

    in_threads(one, range(views.size))
    return Expected(means, float(parts.sum()), peaks)


class Curvature:
    """Gradient and Fisher information of the log likelihood at one model.

    Parameters
    ----------
    views : Views
        The recorded counts.
    model : AtomModel
        The model.
    found : Expected
        What the model expects.

    Attributes
    ----------
    gradient : Step
        Derivative of the log likelihood.
    blocks : ndarray
        Shape (atoms, 4, 4): Fisher information of each atom about (x, y, z, height).
    view_blocks : ndarray
        Shape (views, 6, 6): that of a view about its five parameters and the rotation.
    """

    def __init__(self, views: Views, model: AtomModel, found: Expected) -> None:
        self._views, self._model = views, model
        self._window = window(model.width)
        self._weights = np.empty_like(found.means)
        self._places = [places(model, k, views.centre) for k in range(views.size)]
        self.blocks = np.zeros((model.size, 4, 4))
        self.view_blocks = np.zeros((views.size, 6, 6))
        self.gradient = self._gather_all(found)

    def _gather_all(self, found: Expected) -> Step:
        views, model = self._views, self._model
        kernel = blur_kernel(model.tail_width)
        sums = np.empty((views.size, model.size, 3), np.float32)
        squares = np.empty((views.size, model.size, 6), np.float32)
        backgrounds, gains = np.zeros(views.size), np.zeros(views.size)

        def one(k: int) -> None:
            at = self._places[k]
            excess = np.empty_like(found.means[k])
            kernels.residuals(views.counts[k], found.means[k], excess, self._weights[k])
            backgrounds[k] = excess.sum(dtype=np.float64)
            if model.tail:
                excess += np.float32(model.tail) * blurred(excess, kernel)
            kernels.gather(at.rows, at.columns, model.width, *self._window, excess, sums[k])
            kernels.gather_squares(
                at.rows, at.columns, model.width, *self._window, self._weights[k], squares[k]
            )
            gains[k] = at.gain
            self.view_blocks[k] = self._view_block(k, at)

        in_threads(one, range(views.size))
        sums *= gains[:, None, None].astype(np.float32)
        squares *= (gains**2)[:, None, None].astype(np.float32)
        for k, at in enumerate(self._places):
            kernels.add_blocks(squares[k], at.jacobian, model.heights, self.blocks)
        return self._step(sums, backgrounds)

    def _view_block(self, k: int, at: Places) -> Floats64:
        """Fisher information of one view about its parameters and the rotation."""
        model = self._model
        high, none = model.heights * at.gain, np.zeros(model.size)
        weights = self._weights[k]
        picks = np.flatnonzero(weights.ravel() > 0)
        images = np.empty((6, picks.size), np.float32)
        directions = (
            (none, high, none),
            (none, none, high),
            (none, high * at.by_tilt[0], high * at.by_tilt[1]),
            None,
            (high, none, none),
            (none, high * at.by_rotation[0], high * at.by_rotation[1]),
        )
        for n, direction in enumerate(directions):
            if direction is None:
                images[n] = 1
                continue
            image = np.zeros_like(weights)
            kernels.draw(at.rows, at.columns, *direction, model.width, *self._window, image)
            images[n] = image.ravel()[picks]
        weighted = images * weights.ravel()[picks]
        return (weighted @ images.T).astype(np.float64)

    def _step(self, sums: Floats, backgrounds: Floats64) -> Step:
        """Pull sums over pixels back to all parameters."""
        model = self._model
        out = Step(np.zeros((model.size, 4)), np.zeros((self._views.size, 5)))
        for k, at in enumerate(self._places):
            kernels.pull_back(sums[k], at.jacobian, model.heights, out.atoms)
            pulled = sums[k].astype(np.float64) * model.heights[:, None]
            rows, columns = pulled[:, 1], pulled[:, 2]
            out.views[k, ROW], out.views[k, COLUMN] = rows.sum(), columns.sum()
            out.views[k, TILT] = rows @ at.by_tilt[0] + columns @ at.by_tilt[1]
            out.views[k, BACKGROUND], out.views[k, GAIN] = backgrounds[k], pulled[:, 0].sum()
            out.rotation += float(rows @ at.by_rotation[0] + columns @ at.by_rotation[1])
        return out

    def _changed(self, k: int, step: Step) -> Floats:
        """Change of the expected counts of one view by a step."""
        model, at = self._model, self._places[k]
        image = np.full(self._weights.shape[1:], step.views[k, BACKGROUND], np.float32)
        moves = step.atoms[:, :3] @ at.jacobian.T
        high = model.heights * at.gain
        turn, tilt = step.rotation, step.views[k, TILT]
        along_r = moves[:, 0] + step.views[k, ROW] + tilt * at.by_tilt[0] + turn * at.by_rotation[0]
        along_c = (
            moves[:, 1] + step.views[k, COLUMN] + tilt * at.by_tilt[1] + turn * at.by_rotation[1]
        )
        plain = step.atoms[:, 3] * at.gain + high * step.views[k, GAIN]
        kernels.draw(
            at.rows, at.columns, plain, high * along_r, high * along_c, model.width,
            *self._window, image,
        )  # fmt: skip
        return image

    def product(self, step: Step) -> Step:
        """Fisher information times a step."""
        return self._pulled(lambda k: self._changed(k, step) * self._weights[k])

    def drawn(self, rng: np.random.Generator) -> Step:
        """A random gradient, whose covariance is the Fisher information."""
        seeds = rng.integers(0, 2**63, self._views.size)

        def noise(k: int) -> Floats:
            normal = np.random.default_rng(seeds[k]).standard_normal(
                self._weights[k].shape, np.float32
            )
            return np.sqrt(self._weights[k]) * normal

        return self._pulled(noise)

    def _pulled(self, image_of: ImageOf) -> Step:
        views, model = self._views, self._model
        sums = np.empty((views.size, model.size, 3), np.float32)
        backgrounds = np.zeros(views.size)

        def one(k: int) -> None:
            image, at = image_of(k), self._places[k]
            backgrounds[k] = image.sum(dtype=np.float64)
            kernels.gather(at.rows, at.columns, model.width, *self._window, image, sums[k])
            sums[k] *= np.float32(at.gain)

        in_threads(one, range(views.size))
        return self._step(sums, backgrounds)


def removal_gains(views: Views, model: AtomModel, found: Expected) -> NDArray[np.float64]:
    """By how much each atom raises the log likelihood, while the others stay as they are.

    Parameters
    ----------
    views : Views
        The recorded counts.
    model : AtomModel
        The model.
    found : Expected
        What the model expects.

    Returns
    -------
    ndarray
        Shape (atoms,): half of the likelihood-ratio statistic of the atom.
    """
    parts = np.zeros((views.size, model.size))
    tall, wide = window(model.width)

    def one(k: int) -> None:
        at = places(model, k, views.centre)
        kernels.removal_gain(
            at.rows, at.columns, model.heights * at.gain, model.width, tall, wide,
            views.counts[k], found.means[k], parts[k],
        )  # fmt: skip

    in_threads(one, range(views.size))
    return parts.sum(axis=0)
