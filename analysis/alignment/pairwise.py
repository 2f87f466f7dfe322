"""Pairwise registration of neighbours in tilt, online as images arrive or all at once.

Each image is prepared from itself alone, so that pairs registered while a series is recorded have
exactly the shifts that the finished series gives.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from os import sched_getaffinity
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series, in_threads
from ..core.offsets import Offset, between
from ..core.progress import run_to_end
from ..core.weights import checked_weights
from .preparation import binning_for, prepared_by_weight, prepared_image
from .registration import (
    centre_of_mass,
    common_line,
    line_shift,
    masked_correlation,
    mutual_information,
    phase_correlation,
)
from .resampling import MIN_MEASURED

Method = Literal["mutual-information", "phase-correlation", "centre-of-mass"]
METHODS: tuple[Method, ...] = ("mutual-information", "phase-correlation", "centre-of-mass")
Floats64 = NDArray[np.float64]
# Shift along (rows, columns) by (index of the lower tilt, index of the higher tilt).
PairShifts = Mapping[tuple[int, int], NDArray[Any]]

# Longer side of the images that are registered with one another, and their blur in such pixels.
_SIDE = 128
_BLUR_PX = 1.0
# Where both places of a specimen are known, the shift is searched within so many standard
# deviations of their difference, and some such pixels for what a tilt does to the picture.
_DEVIATIONS, _LEAST_REACH_PX = 4.0, 2.0


@dataclass(frozen=True)
class PreparedImage:
    """An image prepared for registration with any other image of its series.

    Attributes
    ----------
    method : str
        Method of registration.
    shape : tuple of int
        Rows and columns of the original image.
    binning : int
        Side in original pixels of one pixel of `small`.
    small : ndarray
        Float32, at most 128 pixels a side: binned, blurred, background subtracted.
    measured : ndarray of bool or None
        Pixels of `small` of which at least half was measured; None if that holds for all.
    """

    method: Method
    shape: tuple[int, int]
    binning: int
    small: Floats
    measured: NDArray[np.bool_] | None = None


def prepare_image(
    image: NDArray[Any], method: Method, weights: NDArray[Any] | None = None
) -> PreparedImage:
    """Prepare one image for :func:`register_pair`.

    Parameters
    ----------
    image : ndarray
        Shape (rows, columns), as recorded or denoised.
    method : str
        Method of registration, see :func:`register_pair`.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the image, 0 to 1; by default all 1. A
        pixel of weight 0 has no influence.

    Returns
    -------
    PreparedImage
        At most 128 pixels a side, so that a series of them takes a few MB.

    Raises
    ------
    ValueError
        If the image has no pixels or holds NaN, or the method is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> prepare_image(np.eye(512), "phase-correlation").small.shape
    (128, 128)
    """
    checked_method(method)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"the image has the shape {image.shape}; (rows, columns) is needed")
    if not np.isfinite(image).all():
        raise ValueError("the image holds NaN or infinity; leave it out")
    binning = binning_for(image.shape, _SIDE)
    weights = checked_weights(weights, image.shape)
    measured = None
    if weights is None:
        small = prepared_image(image, binning, _BLUR_PX)
    else:
        small, shares = prepared_by_weight(image, weights, binning, _BLUR_PX)
        measured = None if bool((shares >= MIN_MEASURED).all()) else shares >= MIN_MEASURED
    return PreparedImage(method, (image.shape[0], image.shape[1]), binning, small, measured)


def checked_method(method: str) -> None:
    """Raise a ValueError that names the known methods if a method is unknown."""
    if method not in METHODS:
        raise ValueError(f"alignment method '{method}' is unknown; use one of {', '.join(METHODS)}")


def register_pair(
    first: PreparedImage, second: PreparedImage, expected: Offset | None = None
) -> Floats64:
    """Register two images by the method that they were prepared for.

    ``phase-correlation``: see :func:`.registration.phase_correlation`.

    ``mutual-information``: (1+1) evolution strategy on Mattes mutual information, started at the
    result of phase correlation; see :func:`.registration.mutual_information`.

    ``centre-of-mass``: across the tilt axis (x') the centre of mass, which needs a specimen with
    nothing beside it; along the axis (y) the cross correlation of common lines, the intensity
    summed across the axis.

    Where pixels were not measured, the first two use :func:`.registration.masked_correlation` in
    place of phase correlation, and leave these pixels out of the histogram; the third fills them.

    Parameters
    ----------
    first, second : PreparedImage
        Neighbours in tilt, the lower tilt first. In the other order the result differs slightly.
    expected : Offset, optional
        Displacement that was measured elsewhere, in pixels of the original images. The result is
        then a refinement within four standard deviations (and 2 px of the prepared images); where
        nothing fits in there, the expected displacement itself.

    Returns
    -------
    ndarray
        Float64, shape (2,) along (rows, columns): displacement of the specimen in the second
        image against the first, in pixels of the original images. The same two images give the
        same shift, bit for bit.

    Raises
    ------
    ValueError
        If the images differ in shape or were prepared for different methods.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((64, 64))
    >>> image[20:40, 24:36] = 1
    >>> pair = (image, np.roll(image, 3, axis=0))
    >>> shift = register_pair(*(prepare_image(one, "phase-correlation") for one in pair))
    >>> round(float(shift[0])), abs(round(float(shift[1])))
    (3, 0)
    """
    if first.shape != second.shape or first.method != second.method:
        raise ValueError(
            f"an image of shape {first.shape} prepared for {first.method} and an image of shape "
            f"{second.shape} prepared for {second.method} cannot be registered with one another"
        )
    one, other = first.small, second.small
    near = None
    if expected is not None:
        near = expected.scaled(1 / first.binning).widened(_DEVIATIONS, _LEAST_REACH_PX)
    if first.method == "centre-of-mass":
        down = line_shift(common_line(one), common_line(other))
        found = _within(near, np.array([down, centre_of_mass(other) - centre_of_mass(one)]))
    else:
        measured = _both_measured(first, second)
        if measured is None:
            found = _within(near, phase_correlation(one, other, near))
        else:
            found = _within(near, masked_correlation(one, other, *measured, near))
        if first.method == "mutual-information":
            finer, _ = mutual_information(one, other, found, measured)
            # A search that left the neighbourhood has lost its way.
            found = finer if near is None or near.covers(finer) else found
    return found * first.binning


def _within(near: Offset | None, found: Floats64) -> Floats64:
    """What was found, if it is near enough; else the expected displacement."""
    return found if near is None or near.covers(found) else np.array(near.place)


def _both_measured(
    first: PreparedImage, second: PreparedImage
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Masks of the measured pixels of both images; None if all were measured in both."""
    if first.measured is None and second.measured is None:
        return None
    every = np.ones(first.small.shape, np.bool_)
    return (
        every if first.measured is None else first.measured,
        every if second.measured is None else second.measured,
    )


class OnlineRegistration:
    """Pairwise registration of a series while it is recorded.

    Each image is registered with its neighbours in tilt when it arrives. Images may arrive in any
    order of tilts. An image that arrives between two others is registered with both; the shift
    between those two is then not needed any more.

    Parameters
    ----------
    method : str
        Method of registration, see :func:`register_pair`.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((32, 32))
    >>> image[8:20, 10:18] = 1
    >>> registration = OnlineRegistration("centre-of-mass")
    >>> registration.add(0, -2.0, image)
    >>> registration.add(1, 0.0, np.roll(image, 2, axis=1))
    >>> registration.pair_shifts([0, 1])[0, 1].round().tolist()
    [0.0, 2.0]
    """

    def __init__(self, method: Method = "mutual-information") -> None:
        checked_method(method)
        self.method: Method = method
        self._order: list[tuple[float, int]] = []
        self._images: dict[int, PreparedImage] = {}
        self._offsets: dict[int, Offset | None] = {}
        self._shifts: dict[tuple[int, int], Floats64] = {}

    def add(
        self,
        number: int,
        tilt_deg: float,
        image: NDArray[Any],
        weights: NDArray[Any] | None = None,
        offset: Offset | None = None,
    ) -> None:
        """Add an image and register it with its neighbours in tilt.

        Parameters
        ----------
        number : int
            Number of the image in the series; at equal tilts the lower number comes first.
        tilt_deg : float
            Tilt angle in degrees.
        image : ndarray
            Shape (rows, columns), the same for all images.
        weights : ndarray, optional
            Share of each pixel that was measured, 0 to 1; by default all 1.
        offset : Offset, optional
            Where the specimen is in the image, in pixels, if that was measured.

        Raises
        ------
        ValueError
            If an image of this number has been added, the tilt or a pixel is not finite, or the
            shape differs from that of the other images. Nothing is added then.
        """
        if number in self._images:
            raise ValueError(f"image {number} of the series was added before")
        if not np.isfinite(tilt_deg):
            raise ValueError(f"the tilt angle of image {number} is not a finite number")
        ready = prepare_image(image, self.method, weights)
        if self._images:
            shape = next(iter(self._images.values())).shape
            if ready.shape != shape:
                raise ValueError(
                    f"image {number} has the shape {ready.shape}, the other images {shape}"
                )
        insort(self._order, (float(tilt_deg), number))
        self._images[number], self._offsets[number] = ready, offset
        index = self._order.index((float(tilt_deg), number))
        for k in (index - 1, index):
            if 0 <= k < len(self._order) - 1:
                a, b = self._order[k][1], self._order[k + 1][1]
                expected = between(self._offsets[a], self._offsets[b])
                self._shifts[a, b] = register_pair(self._images[a], self._images[b], expected)

    def pair_shifts(
        self,
        numbers: Sequence[int] | NDArray[np.integer[Any]],
        offsets: Sequence[Offset | None] | None = None,
    ) -> dict[tuple[int, int], Floats64]:
        """Shifts found so far, as :func:`.align.align_series` takes them.

        Parameters
        ----------
        numbers : sequence of int
            Number of each image of the image stack that will be aligned.
        offsets : sequence of Offset or None, optional
            What is known by now of the specimen's place in these images. Pairs that were
            registered knowing less are left out, so that they are registered anew.

        Returns
        -------
        dict
            Shifts in pixels, shape (2,), by the indices of both images in that stack.
        """
        index_of = {int(number): index for index, number in enumerate(numbers)}
        return {
            (index_of[a], index_of[b]): shift
            for (a, b), shift in self._shifts.items()
            if a in index_of
            and b in index_of
            and (
                offsets is None
                or between(offsets[index_of[a]], offsets[index_of[b]])
                == between(self._offsets[a], self._offsets[b])
            )
        }


def among(pair_shifts: PairShifts, usable: NDArray[np.intp]) -> PairShifts:
    """Known shifts by the indices among the usable images."""
    index_of = {int(number): index for index, number in enumerate(usable)}
    return {
        (index_of[a], index_of[b]): shift
        for (a, b), shift in pair_shifts.items()
        if a in index_of and b in index_of
    }


def neighbours_in_tilt(tilts: Floats64) -> list[tuple[int, int]]:
    """Indices of neighbours in tilt, the lower tilt first; equal tilts keep their order."""
    order = np.argsort(tilts, kind="stable")
    return [(int(order[k]), int(order[k + 1])) for k in range(len(order) - 1)]


def iter_register_series(
    images: NDArray[Any],
    tilts: Floats64,
    method: Method,
    known: PairShifts | None = None,
    weights: Floats | None = None,
    offsets: Sequence[Offset | None] | None = None,
) -> Generator[float, None, Floats64]:
    """Do what :func:`register_series` does in small pieces; yields the finished fraction."""
    pairs = neighbours_in_tilt(tilts)
    lowest = int(np.argmin(np.abs(tilts)))
    given = {} if known is None else known
    found = {pair: np.asarray(given[pair], np.float64) for pair in pairs if pair in given}
    bad = [p for p, shift in found.items() if shift.shape != (2,) or not np.isfinite(shift).all()]
    if bad:
        raise ValueError(f"the known shift between images {bad[0]} is not a pair of finite numbers")
    missing = [pair for pair in pairs if pair not in found]
    ready: dict[int, PreparedImage] = {}
    at_once = 2 * len(sched_getaffinity(0))
    for begin in range(0, len(missing), at_once):
        part = missing[begin : begin + at_once]

        def prepare(n: int) -> None:
            ready[n] = prepare_image(images[n], method, None if weights is None else weights[n])

        def register(k: int, part: list[tuple[int, int]] = part) -> None:
            a, b = part[k]
            expected = None if offsets is None else between(offsets[a], offsets[b])
            found[a, b] = register_pair(ready[a], ready[b], expected)

        in_threads(prepare, sorted({n for pair in part for n in pair} - ready.keys()))
        in_threads(register, range(len(part)))
        yield min(1.0, (begin + len(part)) / len(missing))
    summed = np.concatenate([np.zeros((1, 2)), np.cumsum([found[p] for p in pairs], axis=0)])
    shifts = np.empty((len(images), 2))
    shifts[[pairs[0][0], *(b for _, b in pairs)]] = summed
    return shifts - shifts[lowest]


def register_series(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    method: Method,
    *,
    pair_shifts: PairShifts | None = None,
    weights: NDArray[Any] | None = None,
    offsets: Sequence[Offset | None] | None = None,
) -> Floats64:
    """Shifts of a tilt series from pairwise registration alone.

    The shifts between neighbours in tilt are summed, and so are their errors; :func:`.align_series`
    refines them.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns), at least two; none of them dark.
    tilt_deg : ndarray
        Angles in degrees, shape (n,), in any order and spacing.
    method : str
        Method of registration, see :func:`register_pair`.
    pair_shifts : mapping, optional
        Shifts that :func:`register_pair` has already found, by the indices of the two images, the
        lower tilt first. Missing ones are computed.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. A
        pixel of weight 0 has no influence.
    offsets : sequence of Offset or None, optional
        Where the specimen was measured to be in each image, in pixels. Pairs of which both are
        known are refined from there instead of searched.

    Returns
    -------
    ndarray
        Float64, shape (n, 2) along (rows, columns): displacement of the specimen in each image
        against the image of the lowest tilt, in pixels.

    Raises
    ------
    ValueError
        If images and angles do not belong together, hold NaN, a known shift is not two finite
        numbers, or the method is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((32, 32))
    >>> image[8:20, 10:18] = 1
    >>> images = np.stack([np.roll(image, k, axis=1) for k in (0, 2, 5)])
    >>> shifts = register_series(images, np.array([0.0, 1.0, 2.0]), "centre-of-mass")
    >>> shifts[:, 1].round().tolist()
    [0.0, 2.0, 5.0]
    """
    images, tilts = checked_series(images, tilt_deg)
    checked_method(method)
    weights = checked_weights(weights, images.shape)
    steps = iter_register_series(images, tilts, method, pair_shifts, weights, offsets)
    return run_to_end(steps)
