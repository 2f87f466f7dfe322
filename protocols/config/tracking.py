"""What a recipe asks of tracking and focus: where the specimen is kept, and what happens if not."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..core.documents import Strict
from ..core.units import Fraction

# A first series may begin so far from 0 deg: the user has centred the specimen there.
BLIND_WAY_DEG = 10.0


class Track(Strict):
    """How the specimen is kept in the frame.

    Attributes
    ----------
    by : str
        ``model``: the beam is shifted by what a model of stage, drift and height expects, which the
        recorded frames teach; ``none``: the beam stays.
    lost_beyond : float
        Offset beyond which a frame is told as off, as a part of the field.
    when_lost : str
        What happens after three frames in a row that do not show the specimen, or where the
        corrections fail: ``pause`` at standby, or ``go on``.
    """

    by: Literal["none", "model"] = "model"
    lost_beyond: Fraction = Field(default=0.3, gt=0, le=1)
    when_lost: Literal["pause", "go on"] = "pause"

    @model_validator(mode="before")
    @classmethod
    def _a_word_is_enough(cls, value: object) -> object:
        return {"by": value} if isinstance(value, str) else value


class Focus(Strict):
    """How the specimen is kept in focus.

    Attributes
    ----------
    by : str
        ``model``: by the height that tracking finds; ``none``: the focus stays.
    """

    by: Literal["none", "model"] = "model"

    @model_validator(mode="before")
    @classmethod
    def _a_word_is_enough(cls, value: object) -> object:
        return {"by": value} if isinstance(value, str) else value
