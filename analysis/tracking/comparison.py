"""Compare a picture with its reference: where the specimen is in it, and whether to believe it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...protocols.messages.tracking import Doubt, FrameTaken, OffsetMeasured
from ..motion.prediction import MotionPrediction
from .pictures import Picture, lit_part
from .references import ReferencePicture
from .registration import Registration, background_of, register

# An innovation of more than so many sd is unexpected; with a score this far below the expected one
# it is not believed.
_UNEXPECTED_SD = 4.5
_UNEXPECTED_SCORE = 0.9

Pair = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """What a picture shows beside its reference.

    Attributes
    ----------
    picture : Picture
        The part of it that was compared: the rows that had the beam.
    offset_nm, sd_nm : tuple of float
        Offset (y, x) of the specimen, and its standard deviation; NaN or infinite where not known.
    score, least : float
        Of the registration: what was reached, and what is needed.
    doubt : str
        Why it is not believed; empty if it is.
    """

    picture: Picture
    offset_nm: Pair = (math.nan, math.nan)
    sd_nm: Pair = (math.inf, math.inf)
    score: float = 0.0
    least: float = 0.0
    doubt: Doubt = ""


def compared(
    reference: ReferencePicture,
    picture: Picture,
    expected: MotionPrediction,
    header: FrameTaken,
    before: Picture | None,
) -> Comparison:
    """Find the specimen of a reference in a picture.

    Parameters
    ----------
    reference : ReferencePicture
        In which the specimen was at a known place.
    picture : Picture
        A frame or a scout.
    expected : MotionPrediction
        Of this one angle.
    header : FrameTaken
        Says of which kind the picture is.
    before : Picture or None
        The picture of that kind before this one, to recognise one that came twice.

    Returns
    -------
    Comparison
        With a doubt where it should not be used.
    """
    if header.cut_short:
        exposed = picture.electrons / reference.picture.electrons
        lit = lit_part(picture, background_of(reference.picture) * exposed)
        if lit is None:
            return Comparison(picture, doubt="blank")
        picture = lit
    offset, sd = expected.offset_nm[0].tolist(), expected.sd_nm[0].tolist()
    if header.scan == "wide":
        # A search: the prediction has failed.
        sd = [math.inf, math.inf]
    shift = (offset[0] - reference.offset_nm[0], offset[1] - reference.offset_nm[1])
    found = register(reference.picture, picture, shift, (sd[0], sd[1]), before)
    at = found.shift_nm[0] + reference.offset_nm[0], found.shift_nm[1] + reference.offset_nm[1]
    spread = (
        math.hypot(found.sd_nm[0], reference.sd_nm[0]),
        math.hypot(found.sd_nm[1], reference.sd_nm[1]),
    )
    doubt = _doubt(found, at, expected)
    return Comparison(picture, at, spread, found.score, found.least, doubt)


def _doubt(found: Registration, offset: Pair, expected: MotionPrediction) -> Doubt:
    if found.reason:
        return found.reason
    away = max(abs((offset[a] - expected.offset_nm[0, a]) / expected.sd_nm[0, a]) for a in (0, 1))
    if away > _UNEXPECTED_SD and found.score < _UNEXPECTED_SCORE * found.expected:
        return "unexpected"
    return ""


def answer_to(header: FrameTaken) -> OffsetMeasured:
    """The answer about a picture, before anything is known of it."""
    return OffsetMeasured(
        t_ns=header.t_ns,
        series=header.series,
        index=header.index,
        scan=header.scan,
        tilt_deg=header.tilt_deg,
    )


def answer_of(
    header: FrameTaken, found: Comparison, expected: MotionPrediction, slip: float
) -> OffsetMeasured:
    """The answer about a picture that was compared; `slip` as in `OffsetMeasured`."""
    known = math.isfinite(sum(found.offset_nm)) and math.isfinite(sum(found.sd_nm))
    predicted, predicted_sd = expected.offset_nm[0].tolist(), expected.sd_nm[0].tolist()
    return answer_to(header).model_copy(
        update={
            "offset_nm": found.offset_nm if known else None,
            "sd_nm": found.sd_nm if known else None,
            "predicted_nm": (predicted[0], predicted[1]),
            "predicted_sd_nm": (predicted_sd[0], predicted_sd[1]),
            "score": found.score,
            "least": found.least,
            "doubt": found.doubt,
            "slip": slip,
        }
    )
