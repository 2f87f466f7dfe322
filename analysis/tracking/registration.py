"""Registration of a frame against a reference of the same specimen, and whether to believe it.

Counts are stabilised (:mod:`.pictures`) and compared by the correlation coefficient over the
overlap (Lewis, Vision Interface, 120, 1995). The prediction enters as a bounded penalty only: what
is far from it, but clearly there, is found all the same. The score that can be expected follows
from the counts of both pictures; the score of an unrelated picture from the structure of both
(Bartlett, J. R. Stat. Soc. 98, 536, 1935).
"""
# scipy.fft declares its results as dispatchables.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

from . import kernels
from .pictures import Picture, noise_variance, resampled, stabilised

Floats64 = NDArray[np.float64]
Reason = Literal["", "blank", "same", "few-counts", "featureless", "decoy", "ambiguous"]

# Part of the reference that must lie in the picture: a slip of a stage can leave no more.
_LEAST_OVERLAP = 0.1
_LARGE_OVERLAP = 0.5
# What a small overlap costs, in sd of chance: little agrees with anything.
_SMALL_OVERLAP_SD = 1.5
# The largest part of the expected score that the prediction can outweigh.
_MOST_PENALTY = 0.12
# Score of a believed match: this part of the expected one (more where more is expected), and this
# many sd of chance.
_SHARE_OF_EXPECTED, _SHARE_MORE = 0.6, 0.2
_CHANCE_SD, _MOST_OF_EXPECTED = 3.5, 0.88
_WHITE_CHANCE_SD = 5.0
# Mean of a blank frame, as part of the background of the reference.
_BLANK = 0.4
# Squares about the peak that belong to it; noise of a second peak, in sd.
_LOBE = 7
_SECOND_SD = 2.0
# Peaks whose scores differ by less are alike whatever the noise.
_ALIKE = 0.02
# Systematic error of the interpolation, in nm, and of parallax, in nm a radian of tilt.
_LEAST_SD_NM = 0.25
_PARALLAX_NM = 30.0
# Neighbouring squares are correlated where they are interpolated.
_SD_FACTOR = 1.2

WORDS: dict[str, str] = {
    "blank": "the frame is blank: no beam on the specimen, or nothing on the detector",
    "same": "the frame is the same, count for count, as the one before",
    "few-counts": "the frame has too few counts to tell where the specimen is",
    "featureless": "the field shows nothing that could be found again",
    "decoy": "the frame shows something else than what was looked for",
    "ambiguous": "the field fits at more than one place",
}


@dataclass(frozen=True)
class Registration:
    """Displacement of the specimen in a picture against the reference.

    Attributes
    ----------
    shift_nm, sd_nm : tuple of float
        (y, x), positive towards higher rows and columns, and its standard deviation.
    score : float
        Correlation coefficient over the overlap.
    expected : float
        Score to expect of the same specimen with these counts.
    least : float
        Score below which it is not believed.
    reason : str
        Why it cannot be believed (:data:`WORDS`); empty if it can.
    """

    shift_nm: tuple[float, float]
    sd_nm: tuple[float, float]
    score: float
    expected: float
    least: float
    reason: Reason

    @property
    def believed(self) -> bool:
        """Whether it can be believed."""
        return self.reason == ""


def register(
    reference: Picture,
    picture: Picture,
    expected_nm: tuple[float, float] = (0.0, 0.0),
    expected_sd_nm: tuple[float, float] = (math.inf, math.inf),
    before: Picture | None = None,
) -> Registration:
    """Find the reference in a picture.

    Parameters
    ----------
    reference : Picture
        The specimen as it was seen. Its field may be smaller than that of the picture.
    picture : Picture
        A frame or a sparse scan at any tilt; see :func:`.pictures.picture_of`.
    expected_nm, expected_sd_nm : tuple of float
        Where the model expects it, (y, x), and its standard deviation; infinite: anywhere.
    before : Picture, optional
        The picture before this one, to recognise a frame that came twice.

    Returns
    -------
    Registration
        Shift, uncertainty, score, and why it cannot be believed.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> rows, columns = np.mgrid[:64, :64]
    >>> level = 20 + 200 * (np.sin(rows / 5) * np.cos(columns / 7 + rows / 30) > 0.3)
    >>> one, other = (
    ...     Picture(rng.poisson(np.roll(level, by, 0)).astype(float), 10.0, 0.0, 1e3)
    ...     for by in (0, 2)
    ... )
    >>> found = register(one, other, (20.0, 0.0), (30.0, 30.0))
    >>> [round(part) for part in found.shift_nm]
    [20, 0]
    """
    shown = resampled(reference, picture.pitch_nm, picture.tilt_deg)
    exposed = picture.electrons / shown.electrons
    if reason := _unusable(shown, picture, exposed, before):
        return _unbelieved(reason)
    template = stabilised(shown.counts * exposed)
    target = stabilised(picture.counts)
    spectra, correlation = _correlated(template, target)
    if correlation.max() <= -1.0:
        return _unbelieved("featureless")
    noise = float(noise_variance(shown.counts * exposed).mean())
    blur = noise * min(exposed, 1e6)
    signal = max(float(template.var()) - blur, 0.0)
    expected = signal / math.sqrt((signal + blur) * (signal + noise) + 1e-12)
    origin = np.array(
        [(side - other) / 2 for side, other in zip(shown.counts.shape, target.shape, strict=True)]
    )
    origin[0] += (picture.centre_nm - reference.centre_nm) / picture.pitch_nm
    penalty = _penalty(
        correlation.shape, shown, origin, picture.pitch_nm, expected_nm, expected_sd_nm
    )
    overlaps = _overlaps(shown.counts.shape, target.shape)
    rarer = np.sqrt(1.0 / np.maximum(overlaps, 1e-3))
    chance = _chance_sd(spectra, template.size)
    placed = correlation - expected * penalty
    judged = placed - _SMALL_OVERLAP_SD * chance * (rarer - 1.0)
    at = np.unravel_index(int(np.argmax(judged)), correlation.shape)
    score = float(correlation[at])
    lag = _vertex(correlation, at) + 1.0 - np.array(shown.counts.shape)
    shift = (lag + origin) * picture.pitch_nm
    least = _least_score(expected, float(chance * rarer[at]), template.size)
    sd = _sd_nm(*_overlap(template, target, lag), score, blur, picture.pitch_nm)
    turned = abs(math.radians(picture.tilt_deg - reference.tilt_deg))
    sd = (sd[0], math.hypot(sd[1], _PARALLAX_NM * turned))
    own = stabilised(shown.counts)
    structure = float(own.var()) - 1.0  # that the reference itself shows, over its noise
    rivals = np.where(overlaps >= _LARGE_OVERLAP, placed, judged)
    reason = _doubt(rivals, score, at, least, expected, structure, template.size)
    return Registration((float(shift[0]), float(shift[1])), sd, score, expected, least, reason)


def background_of(picture: Picture) -> float:
    """Mean counts of a square that shows nothing."""
    return float(np.quantile(picture.counts, 0.02))


def _unusable(shown: Picture, picture: Picture, exposed: float, before: Picture | None) -> Reason:
    if (
        before is not None
        and picture.counts.any()
        and np.array_equal(before.counts, picture.counts)
    ):
        return "same"
    background = background_of(shown) * exposed
    total = float(picture.counts.sum())
    expected = background * picture.counts.size
    if total == 0.0 or total + 4.0 * math.sqrt(total) < _BLANK * expected:
        return "blank"
    return ""


def _unbelieved(reason: Reason) -> Registration:
    return Registration((math.nan, math.nan), (math.inf, math.inf), 0.0, 0.0, 1.0, reason)


def _correlated(
    template: Floats64, target: Floats64
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], Floats64]:
    """Power spectra of both, and the correlation coefficient at each lag."""
    one, other = template - template.mean(), target - target.mean()
    shape = tuple(
        next_fast_len(a + b - 1, real=True) for a, b in zip(one.shape, other.shape, strict=True)
    )
    first, second = rfft2(one, shape), rfft2(other, shape)
    cross = irfft2(np.conj(first) * second, shape)
    sums = []
    for values in (one, one**2, other, other**2):
        out = np.empty((values.shape[0] + 1, values.shape[1] + 1))
        kernels.integral(values, out)
        sums.append(out)
    lags = (one.shape[0] + other.shape[0] - 1, one.shape[1] + other.shape[1] - 1)
    found = np.empty(lags)
    kernels.coefficients(cross, *sums, _LEAST_OVERLAP * one.size, found)
    return (np.abs(first) ** 2, np.abs(second) ** 2), found


def _chance_sd(spectra: tuple[Floats64, Floats64], size: int) -> float:
    """Standard deviation of the coefficient of two unrelated pictures with these spectra."""
    one, other = spectra
    # The spectra hold half of all frequencies; their means are those of all.
    shared = float((one * other).mean() / (one.mean() * other.mean()))
    return math.sqrt(shared / size)


def _overlaps(shape: tuple[int, ...], whole: tuple[int, ...]) -> Floats64:
    """Part of the reference that lies in the picture, at each lag."""
    parts: list[Floats64] = []
    for size, side in zip(shape, whole, strict=True):
        lag = np.arange(size + side - 1) + 1.0 - size
        parts.append((np.minimum(size, side - lag) - np.maximum(0.0, -lag)) / size)
    return parts[0][:, None] * parts[1][None, :]


def _least_score(expected: float, chance_sd: float, size: int) -> float:
    """Score below which a match is not believed."""
    by_chance = min(_CHANCE_SD * chance_sd, _MOST_OF_EXPECTED * expected)
    share = _SHARE_OF_EXPECTED + _SHARE_MORE * expected
    return max(share * expected, by_chance, _WHITE_CHANCE_SD / math.sqrt(size))


def _penalty(
    lags: tuple[int, int],
    shown: Picture,
    origin: Floats64,
    pitch_nm: float,
    expected_nm: tuple[float, float],
    expected_sd_nm: tuple[float, float],
) -> Floats64:
    """Penalty at each lag: it grows with the distance from the prediction, to a bound."""
    distance = np.zeros(lags)
    for axis in (0, 1):
        if not math.isfinite(expected_sd_nm[axis]):
            continue
        at = np.arange(lags[axis]) + 1.0 - shown.counts.shape[axis] + origin[axis]
        spread = math.hypot(expected_sd_nm[axis], pitch_nm)
        line = ((at * pitch_nm - expected_nm[axis]) / spread) ** 2
        distance += line[:, None] if axis == 0 else line[None, :]
    # Within three sd nearly nothing.
    return _MOST_PENALTY * distance / (distance + 25.0)


def _vertex(values: Floats64, at: tuple[np.intp, ...]) -> Floats64:
    """Vertex of the quadratic surface through the maximum and its eight neighbours."""
    row, column = int(at[0]), int(at[1])
    peak = np.array([row, column], np.float64)
    if not (0 < row < values.shape[0] - 1 and 0 < column < values.shape[1] - 1):
        return peak
    part = values[row - 1 : row + 2, column - 1 : column + 2]
    if part.min() <= -1.0:
        return peak
    gy = (part[2].sum() - part[0].sum()) / 6.0
    gx = (part[:, 2].sum() - part[:, 0].sum()) / 6.0
    hyy = (part[2] - 2.0 * part[1] + part[0]).sum() / 3.0
    hxx = (part[:, 2] - 2.0 * part[:, 1] + part[:, 0]).sum() / 3.0
    hxy = (part[2, 2] - part[2, 0] - part[0, 2] + part[0, 0]) / 4.0
    determinant = hyy * hxx - hxy**2
    if hyy >= 0.0 or determinant <= 0.0:
        return peak
    step = np.array([(hxy * gx - hxx * gy), (hxy * gy - hyy * gx)]) / determinant
    return peak + np.clip(step, -1.0, 1.0)


def _overlap(template: Floats64, target: Floats64, lag: Floats64) -> tuple[Floats64, Floats64]:
    """The parts of both that show the same, at a lag rounded to whole squares."""
    one, other = [], []
    for moved, size, whole in zip(
        np.round(lag).astype(int).tolist(), template.shape, target.shape, strict=True
    ):
        first, last = max(0, -moved), min(size, whole - moved)
        one.append(slice(first, last))
        other.append(slice(first + moved, last + moved))
    return template[tuple(one)], target[tuple(other)]


def _sd_nm(
    template: Floats64, target: Floats64, score: float, blur: float, pitch_nm: float
) -> tuple[float, float]:
    """Standard deviation of the shift: what is left unexplained over the slopes of the template."""
    left = max(1.0 - score**2, 1e-6) * float(target.var())
    found = []
    for axis in (0, 1):
        slopes = np.gradient(template, axis=axis)
        # Noise of the template has slopes of its own.
        strength = float((slopes**2).sum()) - 0.5 * blur * template.size
        strength = max(strength, 0.02 * template.size * blur + 1e-9)
        found.append(math.hypot(_SD_FACTOR * pitch_nm * math.sqrt(left / strength), _LEAST_SD_NM))
    return found[0], found[1]


def _doubt(
    rivals: Floats64,
    score: float,
    at: tuple[np.intp, ...],
    least: float,
    expected: float,
    structure: float,
    size: int,
) -> Reason:
    white = 1.0 / math.sqrt(size)
    if expected < 2.0 * _WHITE_CHANCE_SD * white:
        # More counts would show the structure, or there is none.
        return "few-counts" if structure > 1.0 else "featureless"
    if score < least:
        return "decoy"
    row, column = int(at[0]), int(at[1])
    rest = rivals.copy()
    rows = slice(max(0, row - _LOBE), row + _LOBE + 1)
    rest[rows, max(0, column - _LOBE) : column + _LOBE + 1] = -2.0
    margin = _SECOND_SD * (1.0 - score**2) * white + _ALIKE
    return "ambiguous" if float(rest.max()) > float(rivals[at]) - margin else ""
