"""How values of a tilt series become the 16 bits without sign of a run file.

Whole numbers are stored as they are where they fit, else with a ``value_offset`` added. Fractions
are rounded to equal steps between the lowest and the highest value: value = (recorded -
value_offset) * value_scale, to within half a step. Outliers do not set that step: they are kept
exactly, in a list beside the frames, and so are NaN and infinity, which mark what was not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput
from .readers.tilt_stack import TiltStack

DTYPE = np.uint16
_HIGHEST = np.iinfo(DTYPE).max
# An outlier lies further beyond the values of all but a few pixels than those span, times this.
_FAR = 3.0
_FEW_SHARE, _FEW_LEAST = 1e-4, 4
_TOLD_OUTLIERS = 3
# With more pixels that hold no number than this, a stack is not one of images.
_MOST_WITHOUT_NUMBER = 0.5


@dataclass(frozen=True)
class Encoding:
    """How values become 16 bits without sign: recorded = value / scale + offset, rounded.

    Attributes
    ----------
    offset : int
        Added to every value.
    scale : float
        Size of one step.
    low, high : float
        Values beyond are outliers: they are cut in the frames and listed.
    gaps : bool
        Whether there are values that are no number. They are listed too; in the frames stands
        the lowest value.
    """

    offset: int = 0
    scale: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    gaps: bool = False

    @property
    def cuts(self) -> bool:
        """Whether there are values beyond `low` and `high`."""
        return math.isfinite(self.low) or math.isfinite(self.high)

    def encoded(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Values as they are recorded."""
        if self.gaps:
            values = np.where(np.isfinite(values), values, self.low)
        if self.cuts:
            values = np.clip(values, self.low, self.high)
        if self.scale == 1:
            # Python's integers where 64 bits with an offset would not do.
            wide = values.astype(object if values.dtype.itemsize > 4 else np.int64)
            return (wide + self.offset).astype(DTYPE)
        steps = np.rint(values.astype(np.float64) / self.scale) + self.offset
        return np.clip(steps, 0, _HIGHEST).astype(DTYPE)

    def outliers(self, image: NDArray[Any]) -> NDArray[np.intp]:
        """Row and column of each value of an image that is listed, shape (values, 2)."""
        if not (self.cuts or self.gaps):
            return np.empty((0, 2), np.intp)
        listed = (image < self.low) | (image > self.high)
        return np.argwhere(listed | ~np.isfinite(image) if self.gaps else listed)


def encoding_for(low: float, high: float, whole: bool) -> Encoding:
    """Choose how values are recorded.

    Parameters
    ----------
    low, high : number
        Lowest and highest value of the stack.
    whole : bool
        Whether all values are whole numbers of a type for such.

    Returns
    -------
    Encoding

    Raises
    ------
    ValueError
        If whole numbers span more than 16 bits, or fractions span more than 16 bits can represent.
    """
    if whole:
        if low >= 0 and high <= _HIGHEST:
            return Encoding()
        if high - low > _HIGHEST:
            raise ValueError(
                f"its values run from {low:g} to {high:g}, a span of more than 16 bits; "
                "bin or scale them, or save them as floating point (kept in 65535 steps)"
            )
        return Encoding(-int(low))
    # One step less than there are, since both ends are rounded.
    scale = (high - low) / (_HIGHEST - 1) or abs(high) or 1.0
    if not math.isfinite(scale) or scale < np.finfo(np.float32).tiny:
        raise ValueError(f"its values run from {low:g} to {high:g}, which 16 bits cannot represent")
    return Encoding(-round(low / scale), scale)


@dataclass(frozen=True)
class Survey:
    """What a look at every image of a stack has shown.

    Attributes
    ----------
    encoding : Encoding
        How its values are recorded.
    warnings : tuple of str
        What the user should know.
    """

    encoding: Encoding
    warnings: tuple[str, ...] = ()


@dataclass
class _Extremes:
    """The lowest and the highest values of floating point so far, as many as are few."""

    few: int
    lows: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    highs: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def add(self, image: NDArray[Any]) -> None:
        """Take an image into account."""
        values = image.ravel().astype(np.float64)
        count = min(self.few + 1, values.size)
        lows = np.concatenate([self.lows, np.partition(values, count - 1)[:count]])
        highs = np.concatenate([self.highs, np.partition(values, -count)[-count:]])
        self.lows = np.sort(lows)[: self.few + 1]
        self.highs = np.sort(highs)[-self.few - 1 :]

    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value that is no outlier."""
        # The few most extreme values do not say how wide the others spread.
        low, high = float(self.lows[-1]), float(self.highs[0])
        margin = _FAR * (high - low)
        if not margin > 0:  # most pixels are alike: what differs is the image
            return float(self.lows[0]), float(self.highs[-1])
        lows, highs = self.lows, self.highs
        return (
            float(lows[lows >= low - margin][0]),
            float(highs[highs <= high + margin][-1]),
        )


def survey(stack: TiltStack, there: NDArray[np.bool_], path: Path) -> Survey:
    """Read every image once and choose the encoding.

    Parameters
    ----------
    stack : TiltStack
        Readable.
    there : ndarray of bool, shape (images,)
        The images that were recorded.
    path : Path
        Of the stack, for messages.

    Returns
    -------
    Survey
        With a warning about images that show nothing, about outliers, and about values that are
        no number.

    Raises
    ------
    BadInput
        If more than half of the values are no number, or the values cannot be recorded.
    """
    if stack.encoded:
        # A file of this software: its recorded values are taken over as they stand.
        if stack.dtype != np.dtype(DTYPE):
            raise BadInput(
                str(path),
                f"has values encoded as {stack.dtype}; this software encodes them as uint16",
            )
        return Survey(Encoding(stack.value_offset, stack.value_scale))
    seen = _look(stack, there, path)
    low, high, whole, extremes, dark = seen.low, seen.high, seen.whole, seen.extremes, seen.dark
    warnings = [_dark_warning(path, dark, int(there.sum()))] if dark else []
    bounds = low, high
    if extremes is not None and not (whole and high - low <= _HIGHEST):
        bounds = extremes.bounds()
        # Whole numbers in floating point beyond 16 bits are kept as fractions are.
        whole = whole and bounds[1] - bounds[0] <= _HIGHEST
    try:
        chosen = encoding_for(*bounds, whole)
    except ValueError as error:
        raise BadInput(str(path), str(error)) from None
    if bounds != (low, high):
        chosen = replace(chosen, low=bounds[0], high=bounds[1])
        warnings.append(_outlier_warning(stack, there, path, chosen))
    if seen.gaps:
        chosen = replace(chosen, low=bounds[0], high=bounds[1], gaps=True)
        warnings.append(_gap_warning(seen, path))
    return Survey(chosen, tuple(warnings))


@dataclass
class _Seen:
    """What every image together has shown."""

    low: float = math.inf
    high: float = -math.inf
    whole: bool = True
    extremes: _Extremes | None = None  # of floating point alone
    dark: list[str] = field(default_factory=list[str])
    gaps: int = 0  # values that are no number
    first_gap: str = ""


def _look(stack: TiltStack, there: NDArray[np.bool_], path: Path) -> _Seen:
    seen = _Seen()
    if stack.dtype.kind == "f":
        pixels = int(there.sum()) * math.prod(stack.shape[1:])
        seen.extremes = _Extremes(max(_FEW_LEAST, int(_FEW_SHARE * pixels)))
    total = 0
    for index in np.flatnonzero(there):
        image = stack.read(int(index)).ravel()
        total += image.size
        if seen.extremes is not None:
            finite = np.isfinite(image)
            if not finite.all():
                _note_gaps(seen, int(index), finite.reshape(stack.shape[1:]))
                image = image[finite]
            if not image.size:
                seen.dark.append(str(index))
                continue
            seen.whole = seen.whole and bool((image == np.rint(image)).all())
            seen.extremes.add(image)
        lowest, highest = image.min().item(), image.max().item()
        seen.low, seen.high = min(seen.low, lowest), max(seen.high, highest)
        if lowest == highest:
            seen.dark.append(str(index))
    if seen.gaps > _MOST_WITHOUT_NUMBER * total:
        raise BadInput(
            str(path),
            f"{seen.gaps} of {total} values are NaN or infinity ({seen.first_gap}); "
            "save the stack again, or remove the images without numbers and their angles",
        )
    return seen


def _note_gaps(seen: _Seen, index: int, finite: NDArray[np.bool_]) -> None:
    if not seen.gaps:
        row, column = np.argwhere(~finite)[0]
        seen.first_gap = f"the first in image {index} at row {row}, column {column}"
    seen.gaps += int(np.count_nonzero(~finite))


def _gap_warning(seen: _Seen, path: Path) -> str:
    return (
        f"{path}: {seen.gaps} value{' is' if seen.gaps == 1 else 's are'} NaN or infinity "
        f"({seen.first_gap}); the analysis takes such pixels as not measured, and they are kept "
        "in encoding/outliers"
    )


def _dark_warning(path: Path, dark: list[str], images: int) -> str:
    return (
        f"{path}: {len(dark)} of {images} images have one value everywhere (beam blanked, "
        f"or detector off): {', '.join(dark)} (the first is 0); they are kept, but the "
        "analysis does not use them"
    )


def _outlier_warning(
    stack: TiltStack, there: NDArray[np.bool_], path: Path, encoding: Encoding
) -> str:
    told: list[str] = []
    count = 0
    for index in np.flatnonzero(there):
        image = stack.read(int(index))
        for row, column in encoding.outliers(image):
            count += 1
            if len(told) < _TOLD_OUTLIERS:
                value = image[row, column].item()
                told.append(f"{value:g} in image {index} at row {row}, column {column}")
    more = f" and {count - len(told)} more" if count > len(told) else ""
    pixels = "1 pixel is" if count == 1 else f"{count} pixels are"
    return (
        f"{path}: {pixels} far outside of all others ({encoding.low:g} to {encoding.high:g}): "
        f"{'; '.join(told)}{more}; they do not set the steps of the 16 bits, and are kept exactly "
        "in encoding/outliers"
    )
