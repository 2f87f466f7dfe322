"""Pictures of the specimen that later frames are compared with, and where each was."""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from ...protocols.core.documents import Strict
from .pictures import Picture

SAME_ANGLE_DEG = 0.1
# A scout serves as a picture so many degrees further away.
SPARSE_DEG = 4.0
_MOST_KEPT = 300
_MOST_SIDE = 512

Side = Annotated[int, Field(ge=8, le=_MOST_SIDE)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class ReferencePicture:
    """A picture in which the specimen was at a known place.

    Attributes
    ----------
    picture : Picture
        The picture.
    offset_nm, sd_nm : tuple of float
        Offset (y, x) of the specimen in it, and its standard deviation.
    series : str
        Series of the frame.
    sparse : bool
        Whether it is a scout: coarser than a frame, with far fewer electrons.
    """

    picture: Picture
    offset_nm: tuple[float, float]
    sd_nm: tuple[float, float]
    series: str
    sparse: bool = False

    def apart_deg(self, tilt_deg: float) -> float:
        """How far in angle it is; a frame further away serves better than a scout."""
        return abs(self.picture.tilt_deg - tilt_deg) + SPARSE_DEG * self.sparse


class StoredReference(Strict):
    """A reference as JSON; `counts` are uint32, little-endian, deflated, base64."""

    shape: tuple[Side, Side]
    counts: str
    pitch_nm: Positive
    tilt_deg: Finite
    electrons: Positive
    offset_nm: tuple[Finite, Finite]
    sd_nm: tuple[Finite, Finite]
    series: str
    sparse: bool = False
    centre_nm: Finite = 0.0


class ReferencePictures:
    """The newest reference of each angle, in the order in which they were taken."""

    def __init__(self) -> None:
        self._kept: dict[float, ReferencePicture] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, reference: ReferencePicture) -> None:
        """Keep a reference instead of the one at its angle."""
        angle = round(reference.picture.tilt_deg / SAME_ANGLE_DEG) * SAME_ANGLE_DEG
        # The newest one comes last.
        self._kept.pop(angle, None)
        self._kept[angle] = reference
        while len(self._kept) > _MOST_KEPT:
            self._kept.pop(next(iter(self._kept)))

    def apart_deg(self, tilt_deg: float) -> float | None:
        """How far in angle the nearest picture is; None if there is none."""
        return min((kept.apart_deg(tilt_deg) for kept in self._kept.values()), default=None)

    def for_tilt(self, tilt_deg: float, series: str) -> ReferencePicture | None:
        """The picture to compare a frame with.

        That of the same angle, which is one series old; else that of the nearest angle of this
        series; else that of the nearest angle of all.
        """
        if not self._kept:
            return None

        def apart(reference: ReferencePicture) -> float:
            return reference.apart_deg(tilt_deg)

        nearest = min(self._kept.values(), key=apart)
        if apart(nearest) <= SAME_ANGLE_DEG:
            return nearest
        of_series = [kept for kept in self._kept.values() if kept.series == series]
        return min(of_series, key=apart, default=nearest)

    def store(self) -> tuple[StoredReference, ...]:
        """All of them as JSON."""
        return tuple(_stored(reference) for reference in self._kept.values())

    @classmethod
    def restore(cls, stored: tuple[StoredReference, ...]) -> ReferencePictures:
        """Read them back; ValueError if one is damaged."""
        made = cls()
        for one in stored:
            made.add(_restored(one))
        return made


def _stored(reference: ReferencePicture) -> StoredReference:
    picture = reference.picture
    rows, columns = picture.counts.shape
    raw = np.round(picture.counts).astype("<u4").tobytes()
    return StoredReference(
        shape=(rows, columns),
        counts=base64.b64encode(zlib.compress(raw, 6)).decode(),
        pitch_nm=picture.pitch_nm,
        tilt_deg=picture.tilt_deg,
        electrons=picture.electrons,
        offset_nm=reference.offset_nm,
        sd_nm=reference.sd_nm,
        series=reference.series,
        sparse=reference.sparse,
        centre_nm=picture.centre_nm,
    )


def _restored(stored: StoredReference) -> ReferencePicture:
    wanted = 4 * stored.shape[0] * stored.shape[1]
    try:
        deflated = base64.b64decode(stored.counts, validate=True)
        raw = zlib.decompressobj().decompress(deflated, wanted + 1)
    except (binascii.Error, ValueError, zlib.error):
        raise ValueError(f"the reference at {stored.tilt_deg:g} deg is damaged") from None
    if len(raw) != wanted:
        raise ValueError(
            f"the reference at {stored.tilt_deg:g} deg has {len(raw)} bytes; {wanted} are needed"
        )
    counts = np.frombuffer(raw, "<u4").reshape(stored.shape).astype(np.float64)
    picture = Picture(counts, stored.pitch_nm, stored.tilt_deg, stored.electrons, stored.centre_nm)
    return ReferencePicture(picture, stored.offset_nm, stored.sd_nm, stored.series, stored.sparse)
