"""What the pipeline hands to a step: frames, views and whole series."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Pair = tuple[float, float]
Mask = NDArray[np.bool_]


@dataclass
class Frame:
    """One frame on its way through the steps.

    Attributes
    ----------
    index : int
        In its stack, from 0.
    image : ndarray
        Float32, shape (rows, columns), as the steps before have left it. A step that assigns
        another image of this shape changes it for the steps that follow and for the series.
    recorded : ndarray
        The frame as recorded, in counts, without the detector's offset. The step ``correct`` takes
        pedestal, bad pixels and hits out of it; no other step changes it.
    tilt_deg : float or None
        Angle read back from the stage.
    dark : bool
        Whether every pixel has the same value; the series is analysed without such a frame.
    usable : bool
        A step sets it to False, and yields a Notice, where the frame must not be used any further.
    mask : ndarray or None
        True where a pixel was not measured, or not believed, and `image` holds a value made of its
        neighbours, shape (rows, columns); None where all were measured. The step ``correct`` sets
        it.
    time_s, exposure_s : float or None
        Middle of the exposure on the clock of the run, and its duration; None where not known.
    """

    index: int
    image: Floats
    recorded: Floats
    tilt_deg: float | None = None
    dark: bool = False
    usable: bool = True
    mask: Mask | None = None
    time_s: float | None = None
    exposure_s: float | None = None


@dataclass
class SingleFrames:
    """The frames of one view one by one, binned, in the order of their exposure.

    Attributes
    ----------
    counts : ndarray
        Float32, shape (frames, rows, columns): what the detector counted in a binned pixel (the sum
        of its pixels, not the mean), corrected, not denoised, not moved. A step that merges the
        frames leaves one image, the sum of all.
    tilt_deg : ndarray
        Shape (frames,), the angles read back.
    images : ndarray or None
        Float32, as `counts`: mean values as the steps before have left the frames; None where no
        step has changed them.
    weights : ndarray or None
        Share of each pixel that was measured, float32, shape as `counts`; None where all are 1.
    variance : ndarray or None
        Float32, shape as `counts`: variance of each of the counts; None where it is the count.
    time_s : ndarray or None
        Shape (frames,): middle of each exposure; None where it is not known.
    exposure_s : float or None
        Duration of an exposure; None where it is not known.
    merged : int
        Number of frames of which an image of `counts` is the sum.
    """

    counts: Floats
    tilt_deg: Floats64
    images: Floats | None = None
    weights: Floats | None = None
    variance: Floats | None = None
    time_s: Floats64 | None = None
    exposure_s: float | None = None
    merged: int = 1


@dataclass
class View:
    """The mean of all frames of one tilt angle, binned.

    Attributes
    ----------
    index : int
        Among the different angles of the series, from 0.
    image : ndarray
        Float32, shape (rows, columns). A step may assign another for the steps that follow.
    tilt_deg : float
        Mean of the angles read back.
    usable : bool
        A step sets it to False, and yields a Notice, to keep the view from the steps that follow.
        The whole series is analysed with the view as it came.
    weights : ndarray or None
        Share of each binned pixel that was measured, 0 to 1, float32, shape (rows, columns); None
        where all are 1. The step ``align`` gives 0 to pixels that the field did not reach.
    offset_nm : tuple of float or None
        Where the specimen was in the view (y, x), positive towards higher rows and columns, if
        that was measured by now; `offset_sd_nm` is its standard deviation.
    frames : SingleFrames or None
        The frames one by one; only where a step takes `SINGLE_FRAMES`. What a step assigns is also
        what the series holds.
    shift_px : tuple of float or None
        Where the step ``align`` finds the specimen in the view as recorded and binned, along rows
        and columns, the offset of the axis included.
    axis_deg : float or None
        Direction of the tilt axis about which it shows the view.
    """

    index: int
    image: Floats
    tilt_deg: float
    usable: bool = True
    weights: Floats | None = None
    offset_nm: Pair | None = None
    offset_sd_nm: Pair | None = None
    frames: SingleFrames | None = None
    shift_px: Pair | None = None
    axis_deg: float | None = None


@dataclass
class Series:
    """A whole tilt series, as the steps before have left it.

    Attributes
    ----------
    images : ndarray
        Float32, shape (views, rows, columns), binned; a step may assign others of this shape.
        Without views (see `Step.inputs`) there are none of them.
    recorded : ndarray or None
        As `images`, without any change to the frames; only where a step takes `RECORDED_VIEWS`.
    tilt_deg : ndarray
        Shape (views,), the angles read back.
    view_indices : tuple of int
        Place of each image among the angles of the series: those that never came are missing.
    results : dict
        Results of the steps before that are named as inputs of any step.
    displacement_px : tuple of float
        How far (y, z, x), in voxels, the specimen lies now from where the single views showed it.
    weights : ndarray or None
        Share of each binned pixel that was measured, 0 to 1, float32, shape as `images`; None where
        all are 1. A step that moves the images moves them alike.
    offsets_nm, offsets_sd_nm : ndarray or None
        As of each `View`, shape (views, 2), NaN where unknown; None where none is known.
    frames : tuple of SingleFrames or None
        Of each view, where a step takes `SINGLE_FRAMES`. They are never moved by an alignment.
    shifts_px : ndarray or None
        Shape (views, 2), along rows and columns: where an alignment found the specimen in the
        binned images, the offset of the axis apart; None before one.
    shift_sd_px : ndarray or None
        Their standard deviations, where the alignment tells them.
    axis_offset_px, axis_rotation_deg : float
        The tilt axis as an alignment found it.
    """

    images: Floats
    tilt_deg: NDArray[np.float64]
    view_indices: tuple[int, ...]
    recorded: Floats | None = None
    results: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    displacement_px: tuple[float, float, float] = (0.0, 0.0, 0.0)
    weights: Floats | None = None
    offsets_nm: Floats64 | None = None
    offsets_sd_nm: Floats64 | None = None
    frames: tuple[SingleFrames, ...] | None = None
    shifts_px: Floats64 | None = None
    shift_sd_px: Floats64 | None = None
    axis_offset_px: float = 0.0
    axis_rotation_deg: float = 0.0
