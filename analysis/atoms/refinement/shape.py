"""Fisher scoring of what all peaks share: width, tail, scale of the heights, background, depth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...core.arrays import Floats, in_threads
from . import kernels
from .likelihood import blur_kernel, blurred
from .model import AtomModel, Floats64, Views, places, window
from .newton import Fitted, fitted, halved
from .priors import Priors

_LEAST_WIDTH_PX = 0.4
# A step changes widths by no more than this part.
_SHAPE_PART = 0.15
# Terms of all peaks: scale, width, tail, width of the tail, background. Terms of the depth: heights
# linear and quadratic, widths linear and quadratic.
_TERMS, _DEPTH_TERMS = 5, 4
# Two terms of the depth are fitted if they raise the log likelihood by this: half of two
# parameters times the logarithm of some ten million pixels (Schwarz, Ann. Stat. 6, 461, 1978).
_ASKED = 16.0


def shape_step(
    views: Views, now: Fitted, priors: Priors, *, tail: bool, depth: bool = False
) -> Fitted:
    """Fit width, tail, common scale of the heights and common background to the counts.

    Parameters
    ----------
    views : Views
        The recorded counts.
    now : Fitted
        Where the step starts.
    priors : Priors
        The priors.
    tail : bool
        Whether the tail is fitted too; while atoms are missing it would take their counts.
    depth : bool
        Whether heights and widths may change with depth, where the likelihood asks for it.

    Returns
    -------
    Fitted
        The better model; the same one if no part of the step makes it better.
    """
    model = now.model
    if not model.size:
        return now
    fisher, score = _equations(views, now, depth)
    own = [1e-6, 1e-6, 1 / 0.3**2, 1 / (0.5 * model.tail_width) ** 2, 1e-6]
    fisher[np.diag_indices(len(score))] += own + [1e-6] * (len(score) - _TERMS)
    keep = np.array([True, True, tail, tail, True] + [False] * (len(score) - _TERMS))
    if depth:
        keep[_TERMS:] = np.repeat(_asked_for(fisher, score, keep, model), 2)
    change = np.zeros(_TERMS + _DEPTH_TERMS)
    change[np.flatnonzero(keep)] = np.linalg.solve(fisher[np.ix_(keep, keep)], score[keep])
    most = [_SHAPE_PART, _SHAPE_PART * model.width, 0.1, 0.1 * model.tail_width, math.inf]
    most = np.array(most + [_SHAPE_PART] * _DEPTH_TERMS)
    change = np.clip(change, -most, most)

    def tried(share: float) -> Fitted | None:
        other = _changed(model, share * change)
        made = fitted(views, other, priors, priors.heights_of(other, now.heights))
        return made if made.found.log_likelihood > now.found.log_likelihood else None

    return halved(tried) or now


def _changed(model: AtomModel, part: Floats64) -> AtomModel:
    return replace(
        model,
        heights=model.heights * (1 + part[0]),
        width=max(_LEAST_WIDTH_PX, model.width + part[1]),
        tail=min(1.0, max(0.0, model.tail + part[2])),
        tail_width=max(1.5 * model.width, model.tail_width + part[3]),
        background=np.maximum(model.background + part[4], 0.0),
        by_depth=model.by_depth + part[_TERMS:].reshape(2, 2),
    )


def _asked_for(
    fisher: Floats64, score: Floats64, keep: NDArray[np.bool_], model: AtomModel
) -> tuple[bool, bool]:
    """Whether heights, and whether widths, shall change with depth."""
    asked = [bool(row.any()) for row in model.by_depth]

    def gain(heights: bool, widths: bool) -> float:
        free = keep.copy()
        free[_TERMS:] = np.repeat([heights, widths], 2)
        part = score[free]
        return 0.5 * float(part @ np.linalg.solve(fisher[np.ix_(free, free)], part))

    base = gain(asked[0], asked[1])
    # The one that raises the likelihood more goes first.
    rises = [gain(True, asked[1]) - base, gain(asked[0], True) - base]
    best = int(np.argmax(rises))
    for n in (best, 1 - best):
        free = [asked[0], asked[1]]
        free[n] = True
        if not asked[n] and gain(free[0], free[1]) - gain(asked[0], asked[1]) > _ASKED:
            asked[n] = True
    return asked[0], asked[1]


def _equations(views: Views, now: Fitted, depth: bool) -> tuple[Floats64, Floats64]:
    """Fisher information and score of the terms, those of the depth last."""
    count = _TERMS + (_DEPTH_TERMS if depth else 0)
    fishers, scores = np.zeros((views.size, count, count)), np.zeros((views.size, count))

    def one(k: int) -> None:
        images = _images(views, now, k)
        if depth:
            images += _depth_images(views, now, k)
        excess, weights = np.empty_like(images[0]), np.empty_like(images[0])
        kernels.residuals(views.counts[k], now.found.means[k], excess, weights)
        picks = np.flatnonzero(weights.ravel() > 0)
        rows = np.stack([image.ravel()[picks] for image in images])
        fishers[k] = (rows * weights.ravel()[picks]) @ rows.T
        scores[k] = rows @ excess.ravel()[picks]

    in_threads(one, range(views.size))
    return fishers.sum(axis=0), scores.sum(axis=0)


def _images(views: Views, now: Fitted, k: int) -> list[Floats]:
    """Change of the expected counts of a view by scale, width, tail, its width, background."""
    model, peaks = now.model, now.found.peaks[k]
    at = places(model, k, views.centre)
    kernel = blur_kernel(model.tail_width)
    wider = blur_kernel(1.05 * model.tail_width)
    fatter = _widened(views, model, k, model.heights * at.gains, peaks)
    tails = blurred(peaks, kernel)
    return [
        peaks + np.float32(model.tail) * tails,
        fatter + np.float32(model.tail) * blurred(fatter, kernel),
        tails,
        (blurred(peaks, wider) - tails) * np.float32(model.tail / (0.05 * model.tail_width)),
        np.ones_like(peaks),
    ]


def _depth_images(views: Views, now: Fitted, k: int) -> list[Floats]:
    """Change of the expected counts of a view by heights and widths that depend on the depth."""
    model = now.model
    at = places(model, k, views.centre)
    kernel, tail = blur_kernel(model.tail_width), np.float32(model.tail)
    gain = math.exp(float(model.log_gain[k]))
    images: list[Floats] = []
    widened: list[Floats] = []
    for power in (1, 2):
        factor = at.depths**power
        higher = _drawn(views, model, k, model.heights * gain * factor, 0.0)
        images.append(higher)
        weights = model.heights * at.gains * factor
        fatter = _widened(views, model, k, weights, _drawn(views, model, k, weights, 0.0))
        widened.append(fatter * np.float32(model.width))
    return [np.add(image, tail * blurred(image, kernel)) for image in images + widened]


def _widened(views: Views, model: AtomModel, k: int, heights: Floats64, peaks: Floats) -> Floats:
    """Derivative of drawn peaks by their width."""
    more = 0.02 * model.width
    return (_drawn(views, model, k, heights, more) - peaks) / np.float32(more)


def _drawn(views: Views, model: AtomModel, k: int, heights: Floats64, more: float) -> Floats:
    """Peaks of these heights in one view, wider by `more`."""
    at = places(model, k, views.centre)
    image = np.zeros(views.counts.shape[1:], np.float32)
    none = np.zeros(model.size)
    kernels.draw(
        at.rows, at.columns, heights, none, none, at.widths + more, *window(model.width), image
    )
    return image
