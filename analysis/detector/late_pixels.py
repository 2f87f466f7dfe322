"""Bad pixels that were found when some views of a series had already come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.arrays import Floats, binned
from .correction import BadPixel
from .fill import Filling
from .references import Mask


def late_masks(
    pixels: Sequence[BadPixel],
    order: Sequence[int],
    view_of_frame: Sequence[int],
    shape: tuple[int, int],
) -> dict[int, Mask]:
    """Pixels of each view whose frames came before the pixels were found to be bad.

    Parameters
    ----------
    pixels : sequence of BadPixel
        What was found; only those are treated that do not stand out in a single frame.
    order : sequence of int
        Indices of the frames in the order in which they came.
    view_of_frame : sequence of int
        View of each frame.
    shape : tuple of int
        Rows and columns of a frame.

    Returns
    -------
    dict
        View to mask, shape (rows, columns).

    Examples
    --------
    >>> from pyrotome.analysis.detector.correction import BadPixel, Code
    >>> pixel = BadPixel(0, 1, Code.STUCK, 0.0, 20.0, after=2)
    >>> masks = late_masks([pixel], [0, 1, 2], [0, 1, 2], (1, 2))
    >>> {view: mask.tolist() for view, mask in masks.items()}
    {0: [[False, True]], 1: [[False, True]]}
    """
    masks: dict[int, Mask] = {}
    for pixel in pixels:
        for index in order[: pixel.after]:
            view = view_of_frame[index]
            if view not in masks:
                masks[view] = np.zeros(shape, np.bool_)
            masks[view][pixel.row, pixel.column] = True
    return masks


def leave_out(image: Floats, weights: Floats, mask: Mask, binning: int) -> None:
    """Fill the binned pixels that hold pixels of a mask, in place, and set their weights to 0.

    Parameters
    ----------
    image, weights : ndarray
        Binned image of a view and its weights, float32.
    mask : ndarray
        Pixels of a frame, True where left out.
    binning : int
        Pixels of a frame along one side of a binned pixel.

    Examples
    --------
    >>> import numpy as np
    >>> image, weights = np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)
    >>> image[0, 1] = 9.0
    >>> leave_out(image, weights, np.array([[False, True], [False, False]]), 1)
    >>> image.tolist(), weights.tolist()
    ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]])
    """
    touched = binned(mask, binning) > 0
    filled = np.ascontiguousarray(image)
    Filling(touched).fill(filled)
    image[...] = filled
    weights[touched] = 0
