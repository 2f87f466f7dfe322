"""What the tracker is told, and the table that it answers with.

The daemon tells the tracker every frame (with its pixels as payload), move, hold, temperature and
beam shift by the messages below; the tracker answers each frame with an :class:`OffsetMeasured` and
a :class:`Table` for all angles still to come. The engine reads its newest table and never asks.
Every message is one JSON object with a `kind`. Pairs are (y, x) of the image, positive towards
higher rows and columns; lengths are nm, times UTC nanoseconds on the experiment clock.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ..core.documents import Strict
from ..core.errors import BadMessage
from ..core.numbers import Finite, NotNegative, Positive

# Longer than any table that is written; what is longer is damage.
MAX_TRACKING_BYTES = 1_000_000
MOST_ROWS = 1000

Degrees = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
Nanoseconds = Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]
Index = Annotated[int, Field(ge=0, le=10_000_000, strict=True)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Pair = tuple[Finite, Finite]
SdPair = tuple[NotNegative, NotNegative]

# A frame of the series; a sparse scan of the same field; one of a larger field, to search.
ScanKind = Literal["frame", "scout", "wide"]
Doubt = Literal[
    "", "blank", "same", "few-counts", "featureless", "decoy", "ambiguous", "unexpected"
]
FocusDoubt = Literal["", "no-contrast", "outside", "different"]


class Visit(Strict):
    """An angle that a series will go to, and when as far as it is known."""

    tilt_deg: Degrees
    t_ns: Nanoseconds


class SeriesBegun(Strict):
    """A tilt series begins; `visits` are its frames in the order of exposure."""

    kind: Literal["series"] = "series"
    series: Name
    visits: Annotated[tuple[Visit, ...], Field(max_length=MOST_ROWS)]


class FrameTaken(Strict):
    """A frame or a scout, exposed about `t_ns`; its pixels come as payload.

    `tilt_deg` is the angle that was asked. `field_nm` is the width of the scanned field,
    `dose_e_per_nm2` the electrons on it. With `cut_short` the beam may have been blanked before
    its last rows. `shift_nm` and `defocus_nm` are what was applied; without
    them those of the last :class:`ShiftSet` stand.
    """

    kind: Literal["frame"] = "frame"
    t_ns: Nanoseconds
    series: Name
    index: Index
    scan: ScanKind = "frame"
    tilt_deg: Degrees
    field_nm: Positive
    dose_e_per_nm2: Positive
    cut_short: bool = False
    shift_nm: Pair | None = None
    defocus_nm: Finite | None = None
    temperature_c: Finite | None = None


class StageMoved(Strict):
    """The stage was moved along (x, y, z) on purpose; `error_nm` is the sd of each move."""

    kind: Literal["move"] = "move"
    t_ns: Nanoseconds
    moved_nm: tuple[Finite, Finite, Finite]
    error_nm: tuple[NotNegative, NotNegative, NotNegative]


class HoldDone(Strict):
    """A hold is over: the specimen was hotter by `rise_k` and is at standby again."""

    kind: Literal["hold"] = "hold"
    t_ns: Nanoseconds
    rise_k: Finite
    hold_s: NotNegative = 0.0


class TemperatureRead(Strict):
    """The temperature of the specimen."""

    kind: Literal["temperature"] = "temperature"
    t_ns: Nanoseconds
    temperature_c: Finite


class ShiftSet(Strict):
    """Beam shift and defocus as they were read back; they stand until the next message."""

    kind: Literal["shift"] = "shift"
    t_ns: Nanoseconds
    shift_nm: Pair
    defocus_nm: Finite = 0.0


class Focused(Strict):
    """A focus series has ended: the specimen stands `defocus_nm` over where it was in focus.

    With `reset` the focus was set anew, and `defocus_nm` counts from it.
    """

    kind: Literal["focus"] = "focus"
    t_ns: Nanoseconds
    defocus_nm: Finite = 0.0
    sd_nm: NotNegative
    reset: bool = False


class ShiftCalibrated(Strict):
    """The calibration by which beam shifts are given from now on, see `ShiftCalibration`.

    Shifts by the former one mean something else: a tracker that knows it converts what it has
    learned of them.
    """

    kind: Literal["calibration"] = "calibration"
    t_ns: Nanoseconds
    matrix_nm: tuple[Pair, Pair]
    covariance_nm2: tuple[tuple[Finite, Finite, Finite, Finite], ...] = Field(
        min_length=4, max_length=4
    )


class PlaceTold(Strict):
    """A person says where the specimen stands, with the beam shift as it is, and how well."""

    kind: Literal["place"] = "place"
    t_ns: Nanoseconds
    offset_nm: Pair
    sd_nm: SdPair


class FocusPicture(Strict):
    """A picture of a focus series, the `number`-th of `of`; its pixels come as payload.

    All of them show one field at one angle, each with another `defocus_nm` applied. The answer to
    the last one is a :class:`FocusMeasured`.
    """

    kind: Literal["focus picture"] = "focus picture"
    t_ns: Nanoseconds
    series: Name
    index: Index
    number: Annotated[int, Field(ge=0, lt=20, strict=True)]
    of: Annotated[int, Field(ge=3, le=20, strict=True)]
    tilt_deg: Degrees
    field_nm: Positive
    defocus_nm: Finite


class FocusMeasured(Strict):
    """What a focus series has shown: the defocus at which the specimen is in focus.

    `doubt` says why it is not used; it is empty if it is.
    """

    kind: Literal["focused"] = "focused"
    t_ns: Nanoseconds
    series: Name
    index: Index
    tilt_deg: Degrees
    defocus_nm: Finite
    sd_nm: NotNegative
    doubt: FocusDoubt = ""


class BlurSeen(Strict):
    """How much a frame is blurred beside sharp ones of nearby angles.

    `blur_nm` is the diameter of the disc that a point has become, `sd_nm` by how much it may be
    larger, `out_of_focus_nm` the defocus that makes such a disc, where the convergence is known.
    `begins` is true for the frame in which blur that matters is seen first, `blurred` until it is
    over. `stays`: it is still there although the focus was measured, and is something else.
    """

    blur_nm: NotNegative
    sd_nm: NotNegative
    out_of_focus_nm: NotNegative | None = None
    begins: bool = False
    blurred: bool = False
    stays: bool = False


class OffsetMeasured(Strict):
    """Where the specimen was in a frame; `offset_nm` is absent where that could not be measured.

    `predicted_nm` is where the model expected it with the beam shift as it was: not at its place
    where the table was old, or where the beam could not be shifted so far.
    `doubt` says why it is not believed; it is empty if it is. `unexpected` is a clear match at a
    place that the model excludes: a scout should confirm it. `slip` is the probability that the
    stage has slipped before the frame, `least` the score below which nothing is believed. `blur`
    is absent where there is nothing sharp to compare with.
    """

    kind: Literal["measured"] = "measured"
    t_ns: Nanoseconds
    series: Name
    index: Index
    scan: ScanKind
    tilt_deg: Degrees
    offset_nm: Pair | None = None
    sd_nm: SdPair | None = None
    predicted_nm: Pair | None = None
    predicted_sd_nm: SdPair | None = None
    score: Finite = 0.0
    least: Finite = 0.0
    doubt: Doubt = ""
    slip: Annotated[float, Field(ge=0, le=1)] = 0.0
    blur: BlurSeen | None = None


class Row(Strict):
    """What to apply at an angle, if the frame is exposed at `t_ns`.

    `shift_nm` brings the specimen to its place, `shift_sd_nm` is the sd of what remains.
    `defocus_nm` is the height of the specimen over where it was in focus.
    """

    tilt_deg: Degrees
    t_ns: Nanoseconds
    shift_nm: Pair
    shift_sd_nm: SdPair
    defocus_nm: Finite
    defocus_sd_nm: NotNegative
    drift_nm_per_s: NotNegative
    drift_sd_nm_per_s: NotNegative


class DriftAt(Strict):
    """Speed of the drift after the last hold, at a moment to come, if nothing else happens."""

    t_ns: Nanoseconds
    nm_per_s: NotNegative


class Table(Strict):
    """Predictions for all angles still to come, after frame `index` of a series.

    `height` is that of the specimen over the tilt axis and its sd, in nm. `placed` is whether a
    picture has defined where the specimen belongs, `apart_deg` how far in angle the nearest one is
    from the first row; None: there is none. `drift` tells how the drift dies down from now on.
    `number` counts the tables of a tracker from 1. With `trusted` false the corrections have made
    things worse: nothing should be corrected.
    """

    kind: Literal["table"] = "table"
    t_ns: Nanoseconds
    number: Index
    series: Name
    index: Index | None = None
    rows: Annotated[tuple[Row, ...], Field(max_length=MOST_ROWS)]
    height: tuple[Finite, NotNegative] | None = None
    placed: bool = True
    apart_deg: NotNegative | None = None
    drift: Annotated[tuple[DriftAt, ...], Field(max_length=MOST_ROWS)] = ()
    trusted: bool = True
    notes: tuple[str, ...] = ()

    def row_at(self, tilt_deg: float) -> Row | None:
        """The row of the angle nearest to `tilt_deg`, within 0.1 deg; None if there is none."""
        near = min(self.rows, key=lambda row: abs(row.tilt_deg - tilt_deg), default=None)
        return near if near is not None and abs(near.tilt_deg - tilt_deg) <= 0.1 else None


Told = (
    SeriesBegun
    | FrameTaken
    | StageMoved
    | HoldDone
    | TemperatureRead
    | ShiftSet
    | ShiftCalibrated
    | Focused
    | FocusPicture
    | PlaceTold
)
Answer = OffsetMeasured | Table | FocusMeasured
TrackingMessage = Told | Answer
_MESSAGE: TypeAdapter[TrackingMessage] = TypeAdapter(
    Annotated[TrackingMessage, Field(discriminator="kind")]
)


def encode_tracking(message: TrackingMessage) -> bytes:
    """Bytes of a message."""
    return message.model_dump_json(exclude_none=True).encode()


def parse_tracking(raw: bytes | memoryview) -> TrackingMessage:
    """Decode a message.

    Raises
    ------
    BadMessage
        With the reason, if the bytes are not one.
    """
    if len(raw) > MAX_TRACKING_BYTES:
        raise BadMessage(f"tracking message of {len(raw)} bytes; at most {MAX_TRACKING_BYTES}")
    try:
        return _MESSAGE.validate_json(bytes(raw))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise BadMessage(f"{path + ': ' if path else ''}{first['msg']}") from None
