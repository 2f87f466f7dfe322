"""What a recipe asks of tracking and focus: where the specimen is kept, and what happens if not."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..core.documents import Strict
from ..core.units import DurationS, FluenceEPerNm2, Fraction, LengthNm, SpeedNmPerS

# A first series may begin so far from 0 deg: the user has centred the specimen there.
BLIND_WAY_DEG = 10.0


def _or_zero(word: str, zero: str) -> BeforeValidator:
    """Let a word, or a 0 without its unit, stand for zero."""
    return BeforeValidator(
        lambda value: zero if value == word or (value == 0 and type(value) is int) else value
    )


class Track(Strict):
    """How the specimen is kept in the frame.

    A scout is a sparse scan of the whole field, some hundredths of an electron per nm^2, that tells
    where the specimen is before a frame is exposed.

    Attributes
    ----------
    by : str
        ``model``: the beam is shifted by what a model of stage, drift and height expects, which the
        recorded frames teach; ``none``: the beam stays.
    keep_within_nm : float
        Uncertainty of the predicted offset (one sd) beyond which a scout comes first; 0, written
        ``always``, before every frame.
    scouts_e_per_nm2 : float
        Most fluence that the scouts of a series may take; 0, written ``none``: recorded frames
        alone teach the model.
    lost_beyond : float
        Offset beyond which a frame is told as off, as a part of the field.
    when_lost : str
        What happens where a search has not found the specimen, after three frames in a row that do
        not show it, or where the corrections fail: ``pause`` at standby, or ``go on``.
    """

    by: Literal["none", "model"] = "model"
    keep_within_nm: Annotated[LengthNm, _or_zero("always", "0 nm")] = Field(
        default=50.0, alias="keep_within", ge=0
    )
    scouts_e_per_nm2: Annotated[FluenceEPerNm2, _or_zero("none", "0 e/nm^2")] = Field(
        default=1.0, alias="scouts", ge=0
    )
    lost_beyond: Fraction = Field(default=0.3, gt=0, le=1)
    when_lost: Literal["pause", "go on"] = "pause"

    @model_validator(mode="before")
    @classmethod
    def _a_word_is_enough(cls, value: object) -> object:
        return {"by": value} if isinstance(value, str) else value

    def over(self, other: Track | None) -> Track:
        """These settings as far as they are written, and those of `other` where they are not.

        What is kept in the frame here is so unless ``by: none`` is written here.

        Examples
        --------
        >>> recipe = Track.model_validate({"keep_within": "20 nm", "scouts": "2 e/nm^2"})
        >>> series = Track.model_validate({"keep_within": "always"}).over(recipe)
        >>> series.keep_within_nm, series.scouts_e_per_nm2
        (0.0, 2.0)
        """
        written = {name: getattr(self, name) for name in self.model_fields_set}
        return (other or Track()).model_copy(update={"by": self.by, **written})


class Focus(Strict):
    """How the specimen is kept in focus.

    A focus series is three short pictures of a part of the field at different defocus.

    Attributes
    ----------
    by : str
        ``model``: by the height that tracking finds; ``series``: also by a focus series before the
        first frame of a run; ``none``: the focus stays.
    within_nm : float, ``auto`` or None
        Uncertainty of the predicted defocus (one sd) beyond which a focus series comes first;
        ``auto``: half of lambda / alpha^2, and no less than what the model can know. None: only
        after a frame that is out of focus.
    dose_e_per_nm2 : float
        Most fluence that the focus series of a tilt series may take; 0, written ``none``: there
        are none.
    """

    by: Literal["none", "model", "series"] = "model"
    within_nm: Literal["auto"] | LengthNm | None = Field(default=None, alias="within")
    dose_e_per_nm2: Annotated[FluenceEPerNm2, _or_zero("none", "0 e/nm^2")] = Field(
        default=5.0, alias="dose", ge=0
    )

    @model_validator(mode="before")
    @classmethod
    def _a_word_is_enough(cls, value: object) -> object:
        return {"by": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _asks_for_one_thing(self) -> Focus:
        if isinstance(self.within_nm, float) and self.within_nm <= 0.0:
            raise ValueError("focus.within is not greater than 0")
        if self.by == "none" and self.within_nm is not None:
            raise ValueError("focus.within means nothing where the focus stays (by: none)")
        if self.takes_series and not self.dose_e_per_nm2:
            raise ValueError("focus.within and by: series need focus series, focus.dose has none")
        return self

    @property
    def takes_series(self) -> bool:
        """Whether focus series are asked for, and not only where a frame is out of focus."""
        return self.by == "series" or self.within_nm is not None


class Settle(Strict):
    """How long a tilt series waits for the drift after a hold to die down.

    The model of the motion predicts the drift; no exposure is spent on measuring it.

    Attributes
    ----------
    drift_below_nm_per_s : float
        Speed at which the series begins.
    at_most_s : float
        After so long it begins all the same, with a warning.
    """

    drift_below_nm_per_s: SpeedNmPerS = Field(alias="drift_below", gt=0)
    at_most_s: DurationS = Field(default=120.0, alias="at_most", gt=0)
