"""Fisher scoring of what all peaks share: width, tail, scale of the heights, background."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...core.arrays import Floats, in_threads
from . import kernels
from .likelihood import blur_kernel, blurred
from .model import Floats64, Views, places, window
from .newton import Fitted, fitted, halved, typical_height
from .priors import Priors

_LEAST_WIDTH_PX = 0.4
# A step changes widths by no more than this part.
_SHAPE_PART = 0.15


def shape_step(views: Views, now: Fitted, priors: Priors, *, tail: bool) -> Fitted:
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

    Returns
    -------
    Fitted
        The better model; the same one if no part of the step makes it better.
    """
    if not now.model.size:
        return now
    fisher, score = _shape_equations(views, now)
    keep = np.array([True, True, tail, tail, True])
    model = now.model
    fisher[np.diag_indices(5)] += [1e-6, 1e-6, 1 / 0.3**2, 1 / (0.5 * model.tail_width) ** 2, 1e-6]
    change = np.zeros(5)
    change[keep] = np.linalg.solve(fisher[np.ix_(keep, keep)], score[keep])
    most = np.array([_SHAPE_PART, _SHAPE_PART * model.width, 0.1, 0.1 * model.tail_width, np.inf])
    change = np.clip(change, -most, most)

    def tried(share: float) -> Fitted | None:
        part = share * change
        other = replace(
            model,
            heights=model.heights * (1 + part[0]),
            width=max(_LEAST_WIDTH_PX, model.width + part[1]),
            tail=min(1.0, max(0.0, model.tail + part[2])),
            tail_width=max(1.5 * model.width, model.tail_width + part[3]),
            background=np.maximum(model.background + part[4], 0.0),
        )
        made = fitted(views, other, priors, typical_height(other))
        return made if made.found.log_likelihood > now.found.log_likelihood else None

    return halved(tried) or now


def _shape_equations(views: Views, now: Fitted) -> tuple[Floats64, Floats64]:
    """Fisher information and score of scale, width, tail, width of the tail, background."""
    model, found = now.model, now.found
    tall, wide = window(model.width)
    none = np.zeros(model.size)
    kernel = blur_kernel(model.tail_width)
    wider = blur_kernel(1.05 * model.tail_width)
    more = 0.02 * model.width
    fishers, scores = np.zeros((views.size, 5, 5)), np.zeros((views.size, 5))

    def one(k: int) -> None:
        at = places(model, k, views.centre)
        peaks = found.peaks[k]
        fatter = np.zeros_like(peaks)
        kernels.draw(
            at.rows, at.columns, model.heights, none, none, model.width + more, tall, wide, fatter
        )
        fatter -= peaks
        fatter /= np.float32(more)
        tails = blurred(peaks, kernel)
        images: list[Floats] = [
            peaks + np.float32(model.tail) * tails,
            fatter + np.float32(model.tail) * blurred(fatter, kernel),
            tails,
            (blurred(peaks, wider) - tails) * np.float32(model.tail / (0.05 * model.tail_width)),
        ]
        excess, weights = np.empty_like(peaks), np.empty_like(peaks)
        kernels.residuals(views.counts[k], found.means[k], excess, weights)
        picks = np.flatnonzero(weights.ravel() > 0)
        rows = np.stack(
            [at.gain * image.ravel()[picks] for image in images] + [np.ones(picks.size, np.float32)]
        ).astype(np.float32)
        fishers[k] = (rows * weights.ravel()[picks]) @ rows.T
        scores[k] = rows @ excess.ravel()[picks]

    in_threads(one, range(views.size))
    return fishers.sum(axis=0), scores.sum(axis=0)
