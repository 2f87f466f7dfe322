"""Counts of a series as a fit by likelihood takes them: one image for each view or frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocols.steps import SingleFrames
from ..core.arrays import Floats

Floats64 = NDArray[np.float64]

# A pixel of which less was measured does not count.
_MEASURED = 0.999


@dataclass(frozen=True)
class CountSeries:
    """Counts of a series.

    Attributes
    ----------
    counts : ndarray
        Float32, shape (images, rows, columns), not negative.
    tilt_deg : ndarray
        Shape (images,).
    view : ndarray
        Shape (images,): place of each image's view in the series.
    known : ndarray or None
        Bool, shape of `counts`: pixels that were measured; None where all were.
    raised : float
        Share of the pixels that were negative and are 0 now.
    """

    counts: Floats
    tilt_deg: Floats64
    view: NDArray[np.intp]
    known: NDArray[np.bool_] | None
    raised: float


def added_frames(frames: SingleFrames) -> SingleFrames:
    """Add up the frames of a view as they are; what is known of each pixel is what all have.

    Parameters
    ----------
    frames : SingleFrames
        The frames of a view.

    Returns
    -------
    SingleFrames
        One image, the sum of the counts.

    Examples
    --------
    >>> import numpy as np
    >>> three = SingleFrames(np.ones((3, 2, 2), np.float32), np.array([4.9, 5.0, 5.1]))
    >>> one = added_frames(three)
    >>> float(one.counts[0, 0, 0]), float(one.tilt_deg[0]), one.merged
    (3.0, 5.0, 3)
    """
    if len(frames.counts) == 1:
        return frames
    variance, weights = frames.variance, frames.weights
    return SingleFrames(
        frames.counts.sum(axis=0, keepdims=True),
        frames.tilt_deg.mean(keepdims=True),
        weights=None if weights is None else weights.min(axis=0, keepdims=True),
        variance=None if variance is None else variance.sum(axis=0, keepdims=True),
        merged=frames.merged * len(frames.counts),
    )


def count_series(
    frames: Sequence[SingleFrames], *, single: bool = False, counts_per_electron: float = 1.0
) -> CountSeries:
    """Gather the counts of a series.

    Parameters
    ----------
    frames : sequence of SingleFrames
        The frames of each view.
    single : bool
        Whether each frame is an image of its own; otherwise the frames of a view are added.
    counts_per_electron : float
        The counts are divided by it.

    Returns
    -------
    CountSeries
        The images in the order of the views.

    Examples
    --------
    >>> import numpy as np
    >>> views = [SingleFrames(np.ones((3, 2, 2), np.float32), np.full(3, tilt)) for tilt in (0, 5)]
    >>> count_series(views).counts[:, 0, 0].tolist()
    [3.0, 3.0]
    >>> count_series(views, single=True).view.tolist()
    [0, 0, 0, 1, 1, 1]
    """
    images: list[Floats] = []
    tilts: list[float] = []
    views: list[int] = []
    known: list[NDArray[np.bool_]] = []
    for place, view in enumerate(frames):
        measured = np.ones(view.counts.shape, np.bool_)
        if view.weights is not None:
            measured = view.weights >= _MEASURED
        if single:
            images += list(view.counts)
            # The stage stands still meanwhile; its read-back does not.
            tilts += [float(view.tilt_deg.mean())] * len(view.counts)
            known += list(measured)
        else:
            images.append(view.counts.sum(axis=0))
            tilts.append(float(view.tilt_deg.mean()))
            known.append(np.asarray(measured.all(axis=0)))
        views += [place] * (len(images) - len(views))
    counts = np.stack(images)
    if counts_per_electron != 1:
        counts = counts / np.float32(counts_per_electron)
    seen = np.stack(known)
    below = counts < 0
    raised = float((below & seen).mean())
    return CountSeries(
        np.where(below, np.float32(0), counts),
        np.array(tilts),
        np.array(views, np.intp),
        None if seen.all() else seen,
        raised,
    )
