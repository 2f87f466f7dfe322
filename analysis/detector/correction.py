"""The correction of counts: one object for each stack, frames one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from .bad_pixels import PixelHistory
from .fill import Filling
from .gaps import constant_lines
from .levels import Levels, measure_levels
from .outliers import find_outliers
from .references import Mask, References

# A pixel that is marked in this share of the frames counts as left out of the series.
_USUALLY = 0.5


class Code(IntEnum):
    """Why a pixel is left out of a series."""

    USED = 0
    MARKED = 1
    HOT = 2
    STUCK = 3
    LINE = 4
    REFERENCE = 5


@dataclass(frozen=True)
class Wanted:
    """Which corrections are made; see the settings of the step ``correct``."""

    pedestal: float | None = None
    bad_pixels: bool = True
    hits: bool = True
    marked_value: float | None = None


@dataclass(frozen=True)
class Corrected:
    """A corrected frame.

    Attributes
    ----------
    image : ndarray
        Float32, shape (rows, columns): dark, gain and pedestal taken away, bad pixels filled.
    mask : ndarray or None
        True where a pixel was filled; None where all were measured.
    hits : int
        Groups of values that were replaced in this frame alone, counted as pixels.
    highest : float
        Greatest of the replaced values, without the pedestal; NaN without hits.
    doubtful : bool
        Whether so many pixels stood out that none was replaced.
    """

    image: Floats
    mask: Mask | None
    hits: int = 0
    highest: float = float("nan")
    doubtful: bool = False


@dataclass(frozen=True)
class BadPixel:
    """A pixel that is hot, dead or stuck: where, why, its value, and after how many frames."""

    row: int
    column: int
    code: Code
    value: float
    around: float
    after: int


@dataclass
class CountCorrection:
    """Correct the frames of a stack, in the order in which they come.

    What a frame needs is known from it and the frames before it: the pedestal from the first frame,
    bad pixels as soon as they have been wrong often enough. Until then a bad pixel is replaced
    frame by frame, as a hit is, where it stands out.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of a frame.
    references : References
        Dark, gain and mask.
    wanted : Wanted
        Which corrections are made.
    known : ndarray, optional
        Codes of pixels that were bad in an earlier stack, uint8, shape (rows, columns).

    Raises
    ------
    ValueError
        If the references have another shape.

    Examples
    --------
    >>> import numpy as np
    >>> correction = CountCorrection((32, 32))
    >>> counts = np.random.default_rng(0).poisson(20.0, (4, 32, 32)).astype(np.float32)
    >>> counts[:, 3, 4] = 65535
    >>> [int(correction.correct(frame).mask.sum()) for frame in counts]
    [1, 1, 1, 1]
    >>> correction.bad_pixels[0].code.name
    'HOT'
    """

    shape: tuple[int, int]
    references: References = field(default_factory=References)
    wanted: Wanted = field(default_factory=Wanted)
    known: NDArray[np.uint8] | None = None
    levels: Levels | None = field(default=None, init=False)
    frames: int = field(default=0, init=False)
    bad_pixels: list[BadPixel] = field(default_factory=list[BadPixel], init=False)

    def __post_init__(self) -> None:
        if self.references.shape not in (None, self.shape):
            raise ValueError(
                f"the references have the shape {self.references.shape}, the frames {self.shape}"
            )
        self._history = PixelHistory(self.shape)
        self._codes = np.zeros(self.shape, np.uint8)
        left_out = self.references.left_out
        if left_out is not None:
            self._codes[left_out] = Code.REFERENCE
        if self.known is not None:
            kept = np.isin(self.known, (Code.HOT, Code.STUCK)) & (self._codes == Code.USED)
            self._codes[kept] = self.known[kept]
        self._marks = np.zeros(self.shape, np.uint16)
        self._lines = np.zeros(self.shape, np.uint16)
        self._filling: Filling | None = None

    def correct(self, counts: Floats) -> Corrected:
        """Correct one frame.

        Parameters
        ----------
        counts : ndarray
            Float32, shape (rows, columns), as the detector sent it; NaN marks a pixel without
            value. It is not changed.

        Returns
        -------
        Corrected
        """
        self.frames += 1
        mask = self._left_out(counts)
        image = self.references.applied(counts)
        image = image.copy() if image is counts else np.ascontiguousarray(image)
        filling = self._filling_of(mask)
        filling.fill(image)
        self._take_pedestal(image)
        outliers, doubtful = self._outliers(image)
        hits, highest = 0, float("nan")
        places = np.flatnonzero(outliers)
        values = image.flat[places]
        if values.size:
            Filling(outliers).fill(image)
        self._learn(counts, mask, outliers, image)
        if values.size:
            single = ~self._history.is_bad(places)
            hits = int(np.count_nonzero(single))
            highest = float(values[single].max()) if hits else highest
            mask = mask | outliers
        return Corrected(image, mask if mask.any() else None, hits, highest, doubtful)

    def conclude(self) -> NDArray[np.uint8]:
        """Codes of the pixels when all frames have come, uint8, shape (rows, columns)."""
        codes = self._codes.copy()
        usual = max(1.0, _USUALLY * self.frames)
        codes[(self._marks >= usual) & (codes == Code.USED)] = Code.MARKED
        codes[(self._lines >= usual) & (codes == Code.USED)] = Code.LINE
        return codes

    @property
    def values_missing(self) -> int:
        """Values that were NaN or marked in pixels that are measured in most frames."""
        usual = max(1.0, _USUALLY * self.frames)
        return int(self._marks[(self._marks < usual) & (self._codes == Code.USED)].sum())

    @property
    def pedestal(self) -> float:
        """What was taken away from every pixel, after dark and gain."""
        return self.levels.pedestal if self.levels is not None else 0.0

    def _left_out(self, counts: Floats) -> Mask:
        """Pixels of a frame that are known to be bad before their value is looked at."""
        mask = self._codes > 0
        marked = ~np.isfinite(counts)
        if self.wanted.marked_value is not None:
            marked |= counts == np.float32(self.wanted.marked_value)
        if marked.any():
            self._marks += marked
            mask |= marked
        if self.wanted.bad_pixels:
            lines = constant_lines(counts, mask if mask.any() else None)
            if lines is not None:
                self._lines += lines
                mask |= lines
        return mask

    def _filling_of(self, mask: Mask) -> Filling:
        """How a mask is filled; the same as for the frame before where the mask is the same."""
        if self._filling is None or not np.array_equal(self._filling.mask, mask):
            self._filling = Filling(mask.copy())
        return self._filling

    def _take_pedestal(self, image: Floats) -> None:
        if self.levels is None:
            measured = measure_levels(image)
            given = self.wanted.pedestal
            self.levels = measured if given is None else measured.with_pedestal(given)
        if self.levels.pedestal:
            image -= np.float32(self.levels.pedestal)

    def _outliers(self, image: Floats) -> tuple[Mask, bool]:
        assert self.levels is not None
        if not (self.wanted.hits or self.wanted.bad_pixels):
            return np.zeros(self.shape, np.bool_), False
        return find_outliers(image, self.levels.without_pedestal())

    def _learn(self, counts: Floats, mask: Mask, outliers: Mask, image: Floats) -> None:
        """Take note of a frame, and of the pixels that turn out to be bad."""
        if not self.wanted.bad_pixels:
            return
        history = self._history
        history.add_frame(counts, outliers)
        bad = np.flatnonzero(history.bad)
        new = bad[(self._codes.flat[bad] == Code.USED) & ~mask.flat[bad]]
        for row, column in zip(*np.unravel_index(new, self.shape), strict=True):
            value, around = float(counts[row, column]), float(image[row, column]) + self.pedestal
            stuck = bool(history.stuck[row, column]) or value < around
            code = Code.STUCK if stuck else Code.HOT
            self._codes[row, column] = code
            self.bad_pixels.append(
                BadPixel(int(row), int(column), code, value, around, self.frames)
            )
