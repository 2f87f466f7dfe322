"""Deflectors, lenses and scan of a column as a wire reaches them: what a driver implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

Pair = tuple[float, float]


class Optics(ABC):
    """The wire's side of beam shift, focus and scan rotation; all values are read and sent as set.

    Attributes
    ----------
    unit : {"nm", "step"}
        In which the wire counts the deflectors, see `ShiftCalibration`.
    resolution : float
        Smallest change of a deflector, in that unit.
    lenses : tuple of str
        By which the focus can be changed, apart from the stage's z.
    turns_scan : bool
        Whether the wire has a scan rotation.
    """

    unit: ClassVar[Literal["nm", "step"]]
    lenses: ClassVar[tuple[str, ...]] = ()
    turns_scan: ClassVar[bool] = False
    resolution: float = 1.0

    @abstractmethod
    async def units(self) -> Pair:
        """What the beam deflectors are set to."""

    @abstractmethod
    async def send_units(self, units: Pair) -> None:
        """Set the beam deflectors."""

    @abstractmethod
    async def z_nm(self) -> float:
        """Where the stage stands along the beam."""

    @abstractmethod
    async def send_z_nm(self, z_nm: float, timeout_s: float) -> None:
        """Send the stage along the beam; it may answer before the arrival."""

    @abstractmethod
    async def stage_stands(self) -> bool:
        """Whether the stage is ready."""

    async def lens_nm(self, lens: str) -> float:
        """What a lens is set to."""
        raise NotImplementedError(lens)

    async def send_lens_nm(self, lens: str, value_nm: float) -> None:
        """Set a lens."""
        raise NotImplementedError(lens, value_nm)

    async def turn_scan(self, rotation_deg: float) -> float:
        """Set the scan rotation; returns what is read back."""
        raise NotImplementedError(rotation_deg)
