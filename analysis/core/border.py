"""The border of a view, where the background is seen alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The background is the mean of a frame of this part of the shorter side.
_FRAME_PART = 0.06


def border_level(
    counts: NDArray[Any], known: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Mean counts of the pixels at the border of each view.

    Parameters
    ----------
    counts : ndarray
        Shape (views, rows, columns).
    known : ndarray, optional
        Bool, shape of `counts` or with one view for all: pixels that were measured.

    Returns
    -------
    ndarray
        Shape (views,).

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.full((2, 32, 32), 3)
    >>> counts[:, 8:24, 8:24] = 9
    >>> border_level(counts).tolist()
    [3.0, 3.0]
    """
    frame = max(2, math.ceil(_FRAME_PART * min(counts.shape[1:])))
    border = np.ones((1, *counts.shape[1:]), np.bool_)
    border[:, frame:-frame, frame:-frame] = False
    border = np.broadcast_to(border if known is None else border & known, counts.shape)
    return np.array([
        view[at].mean() if at.any() else view.min() for view, at in zip(counts, border, strict=True)
    ])  # fmt: skip
