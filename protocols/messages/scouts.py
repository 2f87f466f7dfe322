"""A scout on its way to the recorder: the message that the tracker gets, with its picture.

The tracker gets each scout as a :class:`FrameTaken`; the recorder gets the same in the header of a
message of the topic `SCOUT_TOPIC`. It costs no credit: how many scouts come before a frame is
bounded by the tracking rules, and the frame after them waits for credit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .stream import Message
from .tracking import FrameTaken

SCOUT_TOPIC = "scout"


def scout_message(
    taken: FrameTaken, pixels: Mapping[str, Any], payload: tuple[Any, ...]
) -> Message:
    """The message about a scout.

    Parameters
    ----------
    taken : FrameTaken
        What the tracker is told.
    pixels : mapping
        What the header says of the payload: ``shape``, ``dtype``, ``encoding``.
    payload : tuple
        The picture, as for a frame.

    Examples
    --------
    >>> taken = FrameTaken(t_ns=1, series="series_001", index=0, scan="wide", tilt_deg=2,
    ...                    field_nm=3000, dose_e_per_nm2=0.02)
    >>> message = scout_message(taken, {"shape": [2, 2], "dtype": "uint16"}, (b"12345678",))
    >>> message.topic, message.header["scan"], message.header["field_nm"]
    ('scout', 'wide', 3000.0)
    """
    told = taken.model_dump(mode="json", exclude_none=True, exclude={"kind"})
    return Message(SCOUT_TOPIC, {"type": SCOUT_TOPIC, **told, **pixels}, payload)
