"""Shifts between neighbouring tilts, one pair at a time, as images arrive or all at once.

Each image is prepared from itself alone, so that pairs registered while a series is recorded give
the very numbers that the finished series gives.
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
from ..core.progress import run_to_end
from .preparation import binning_for, prepared_image
from .registration import (
    centre_of_mass,
    common_line,
    line_shift,
    mutual_information,
    phase_correlation,
)

Method = Literal["mutual-information", "phase-correlation", "centre-of-mass"]
METHODS: tuple[Method, ...] = ("mutual-information", "phase-correlation", "centre-of-mass")
Floats64 = NDArray[np.float64]
# Steps between neighbours: (place of the lower tilt, of the higher one) to (rows, columns).
PairShifts = Mapping[tuple[int, int], NDArray[Any]]

# Longer side of the images that are registered with one another, and their blur in such pixels.
_SIDE = 128
_BLUR_PX = 1.0


@dataclass(frozen=True)
class PreparedImage:
    """One image made ready for registration with any other of its series.

    Attributes
    ----------
    method : str
        How it will be registered.
    shape : tuple of int
        Rows and columns of the image given.
    binning : int
        Pixels of the image given in one of `small`.
    small : ndarray
        Float32: binned, blurred, freed from its background.
    """

    method: Method
    shape: tuple[int, int]
    binning: int
    small: Floats


def prepare_image(image: NDArray[Any], method: Method) -> PreparedImage:
    """Prepare one image for :func:`register_pair`, from itself alone.

    Parameters
    ----------
    image : ndarray
        Shape (rows, columns), as recorded or denoised.
    method : str
        See :func:`register_pair`.

    Returns
    -------
    PreparedImage
        At most 128 pixels a side, so that a series of them takes a few MB.

    Raises
    ------
    ValueError
        If the image has no pixels or holds NaN, or the method is unknown.
    """
    checked_method(method)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"an image of shape {image.shape}; (rows, columns) is needed")
    if not np.isfinite(image).all():
        raise ValueError("the image holds NaN or infinity; leave it out")
    binning = binning_for(image.shape, _SIDE)
    small = prepared_image(image, binning, _BLUR_PX)
    return PreparedImage(method, (image.shape[0], image.shape[1]), binning, small)


def checked_method(method: str) -> None:
    """Refuse a method that is not known.

    Raises
    ------
    ValueError
        With the names of those that are.
    """
    if method not in METHODS:
        raise ValueError(f"alignment by '{method}'; one of {', '.join(METHODS)} is known")


def register_pair(first: PreparedImage, second: PreparedImage) -> Floats64:
    """Register two images with one another.

    Which way depends on what they were prepared for. ``mutual-information``: (1+1) evolution
    strategy on Mattes mutual information, begun at the result of phase correlation.
    ``phase-correlation``. ``centre-of-mass``: along x' the centre of mass, which asks for a
    specimen with nothing beside it; along y, the tilt axis, the cross correlation of the intensity
    summed across the axis (common line).

    Parameters
    ----------
    first, second : PreparedImage
        Neighbours in tilt, the lower tilt first: turned round, the numbers differ a little.

    Returns
    -------
    ndarray
        Float64, shape (2,) along (rows, columns): where the specimen of the second image has
        moved to against the first, in pixels of the images given. The same two images give the
        same numbers, bit by bit.

    Raises
    ------
    ValueError
        If the images differ in shape or were prepared for different methods.
    """
    if first.shape != second.shape or first.method != second.method:
        raise ValueError(
            f"images of {first.shape} for {first.method} and of {second.shape} for "
            f"{second.method} cannot be registered with one another"
        )
    one, other = first.small, second.small
    if first.method == "centre-of-mass":
        down = line_shift(common_line(one), common_line(other))
        found = np.array([down, centre_of_mass(other) - centre_of_mass(one)])
    else:
        found = phase_correlation(one, other)
        if first.method == "mutual-information":
            found, _ = mutual_information(one, other, found)
    return found * first.binning


class OnlineRegistration:
    """Registers each image of a series with its neighbours in tilt as soon as it is there.

    Images may come in any order of tilts. One that comes between two others is registered with
    both; the step between those two is then no longer asked for.

    Parameters
    ----------
    method : str
        See :func:`register_pair`.
    """

    def __init__(self, method: Method = "mutual-information") -> None:
        checked_method(method)
        self.method: Method = method
        self._order: list[tuple[float, int]] = []
        self._images: dict[int, PreparedImage] = {}
        self._steps: dict[tuple[int, int], Floats64] = {}

    def add(self, number: int, tilt_deg: float, image: NDArray[Any]) -> None:
        """Take in an image and register it with the neighbours that are there.

        Parameters
        ----------
        number : int
            Of the image in the series; with equal tilts the lower number comes first.
        tilt_deg : float
            Its tilt.
        image : ndarray
            Shape (rows, columns), the same for all.

        Raises
        ------
        ValueError
            If the number has been there, the tilt or a pixel is not finite, or the shape is not
            that of the others. The series is then as it was.
        """
        if number in self._images:
            raise ValueError(f"image {number} of the series has been there already")
        if not np.isfinite(tilt_deg):
            raise ValueError(f"the tilt angle of image {number} is not a finite number")
        ready = prepare_image(image, self.method)
        if self._images:
            shape = next(iter(self._images.values())).shape
            if ready.shape != shape:
                raise ValueError(f"image {number} has shape {ready.shape}, the others {shape}")
        insort(self._order, (float(tilt_deg), number))
        self._images[number] = ready
        place = self._order.index((float(tilt_deg), number))
        for k in (place - 1, place):
            if 0 <= k < len(self._order) - 1:
                a, b = self._order[k][1], self._order[k + 1][1]
                self._steps[a, b] = register_pair(self._images[a], self._images[b])

    def pair_shifts(
        self, numbers: Sequence[int] | NDArray[np.integer[Any]]
    ) -> dict[tuple[int, int], Floats64]:
        """Steps found so far, as `align.align_series` takes them.

        Parameters
        ----------
        numbers : sequence of int
            The number of each image in the stack that is to be aligned.

        Returns
        -------
        dict
            By the places of both images in that stack.
        """
        places = {int(number): place for place, number in enumerate(numbers)}
        return {
            (places[a], places[b]): step
            for (a, b), step in self._steps.items()
            if a in places and b in places
        }


def neighbours_in_tilt(tilts: Floats64) -> list[tuple[int, int]]:
    """Places of neighbours, the lower tilt first; equal tilts in the order they have."""
    order = np.argsort(tilts, kind="stable")
    return [(int(order[k]), int(order[k + 1])) for k in range(len(order) - 1)]


def iter_register_series(
    images: NDArray[Any], tilts: Floats64, method: Method, known: PairShifts | None = None
) -> Generator[float, None, Floats64]:
    """:func:`register_series` in small pieces: yields the finished fraction, returns the shifts."""
    pairs = neighbours_in_tilt(tilts)
    lowest = int(np.argmin(np.abs(tilts)))
    given = {} if known is None else known
    steps = {pair: np.asarray(given[pair], np.float64) for pair in pairs if pair in given}
    bad = [p for p, step in steps.items() if step.shape != (2,) or not np.isfinite(step).all()]
    if bad:
        raise ValueError(f"the step between images {bad[0]} is no pair of finite numbers")
    missing = [pair for pair in pairs if pair not in steps]
    ready: dict[int, PreparedImage] = {}
    at_once = 2 * len(sched_getaffinity(0))
    for begin in range(0, len(missing), at_once):
        part = missing[begin : begin + at_once]

        def prepare(n: int) -> None:
            ready[n] = prepare_image(images[n], method)

        def register(k: int, part: list[tuple[int, int]] = part) -> None:
            steps[part[k]] = register_pair(*(ready[n] for n in part[k]))

        in_threads(prepare, sorted({n for pair in part for n in pair} - ready.keys()))
        in_threads(register, range(len(part)))
        yield min(1.0, (begin + len(part)) / len(missing))
    summed = np.concatenate([np.zeros((1, 2)), np.cumsum([steps[p] for p in pairs], axis=0)])
    shifts = np.empty((len(images), 2))
    shifts[[pairs[0][0], *(b for _, b in pairs)]] = summed
    return shifts - shifts[lowest]


def register_series(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    method: Method,
    *,
    pair_shifts: PairShifts | None = None,
) -> Floats64:
    """Shifts of a tilt series by registering neighbours in tilt, nothing else.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns), at least two; none of them dark.
    tilt_deg : ndarray
        Angles in degrees, shape (n,), in any order and spacing.
    method : str
        See :func:`register_pair`.
    pair_shifts : mapping, optional
        What :func:`register_pair` has already found, by the places of the two images in `images`,
        the lower tilt first. Only what is missing is computed.

    Returns
    -------
    ndarray
        Float64, shape (n, 2) along (rows, columns): where the specimen has moved to against the
        image of the lowest tilt.

    Raises
    ------
    ValueError
        If images and angles do not belong together, hold NaN, a known step is not two finite
        numbers, or the method is unknown.
    """
    images, tilts = checked_series(images, tilt_deg)
    checked_method(method)
    return run_to_end(iter_register_series(images, tilts, method, pair_shifts))
