"""Comparison of frames that the package bm3d denoised: it is not deterministic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def denoised_alike(
    first: NDArray[Any], second: NDArray[Any], frame: NDArray[Any], share: float = 0.1
) -> bool:
    """Tell whether two results differ by less than a share of the noise that was removed.

    The package adds blocks in the order in which its threads finish. Equal calls differ by some
    1e-5, and where that moves one coefficient over the threshold, one block differs by far more.
    A frame that is shifted by a pixel, scaled by 10 % or denoised with 0.75 of the variance is not
    alike.

    Parameters
    ----------
    first, second : ndarray
        Two results of one frame, shape (rows, columns).
    frame : ndarray
        The frame before denoising.
    share : float
        Largest rms of the difference, in units of the rms of the removed noise.

    Returns
    -------
    bool
        Whether the results are alike.
    """
    removed = float(np.std(frame - np.asarray(second, np.float64)))
    difference = np.asarray(first, np.float64) - second
    return float(np.sqrt(np.mean(difference**2))) <= share * removed
