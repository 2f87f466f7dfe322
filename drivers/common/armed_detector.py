"""A detector that is armed and triggered and sends numbered frames: what drivers have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...protocols.config.rig import DetectorRig
from ...protocols.core.clock import ExperimentClock
from ..base import Detector, DeviceLost, DeviceRefused, OutOfRange


@dataclass
class Acquisition:
    """What the detector is armed for, and how far it is.

    Attributes
    ----------
    due : int
        Frames that were triggered so far.
    last_number : int
        Of the latest frame that came whole.
    damaged : int
        Frames that came damaged since.
    """

    frames: int
    frames_per_trigger: int
    exposure_s: float
    shape: tuple[int, int]
    due: int = 0
    last_number: int = 0
    damaged: int = 0

    def damage(self) -> bool:
        """Count a damaged frame; true where no frame of those triggered is still to come."""
        self.damaged += 1
        return self.last_number + self.damaged >= self.due

    def arrive(self, number: int) -> None:
        """Note a frame that came whole."""
        self.last_number, self.damaged = number, 0


Armed = TypeVar("Armed", bound=Acquisition)


class ArmedDetector(Detector, Generic[Armed]):
    """Checks each request against the rig, and each frame against the request."""

    def __init__(self, name: str, rig: DetectorRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self._armed: Armed | None = None

    @property
    @abstractmethod
    def _is_connected(self) -> bool: ...

    def _acquisition(self, request: str) -> Armed:
        """The acquisition; DeviceLost or DeviceRefused where the detector is not armed."""
        if self._armed is None:
            if not self._is_connected:
                raise DeviceLost(self.name, request, "it is not connected", "Connect first")
            raise self._refused(request, "it is not armed", "Arm it first")
        return self._armed

    def _count_damaged(self, armed: Armed, request: str, found: str) -> None:
        """Count a damaged frame; DeviceLost where no frame of those triggered is still to come."""
        if armed.damage():
            raise DeviceLost(
                self.name, request, f"it sent {found}", "Check the network and its load"
            )

    def _refuse_beyond_limits(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int
    ) -> None:
        """Raise OutOfRange where an acquisition makes no sense or is beyond the rig's limits."""
        largest = self.rig.limits.frame
        request = f"acquire {frames} frames of {size_text(shape)} pixels and {exposure_s:g} s"
        if not (1 <= shape[0] <= largest[0] and 1 <= shape[1] <= largest[1]):
            raise OutOfRange(
                self.name,
                request,
                f"the rig's limit is {size_text(largest)}; nothing was sent",
                "Lower the recipe's beam.frame",
            )
        if frames < 1 or not (math.isfinite(exposure_s) and exposure_s > 0):
            raise OutOfRange(
                self.name, request, "frames and exposure must be positive; nothing was sent"
            )
        if frames_per_trigger < 1 or frames % frames_per_trigger:
            raise OutOfRange(
                self.name,
                f"{request}, {frames_per_trigger} for each trigger",
                "the number of frames is not a multiple of it; nothing was sent",
            )

    def _check_frame(
        self, armed: Acquisition, number: int, shape: tuple[int, int], kind: str, wanted: str
    ) -> None:
        """Raise DeviceRefused where a frame has another size, pixel type or number than is due."""
        request = "read a frame"
        if shape != armed.shape or kind != wanted:
            raise self._refused(
                f"{request} of {size_text(armed.shape)} {wanted}",
                f"it sent {size_text(shape)} {kind}",
            )
        if not armed.last_number < number <= armed.frames:
            raise self._refused(
                request,
                f"it sent frame {number} after {armed.last_number} "
                f"of an acquisition of {armed.frames}",
            )

    def _refused(self, request: str, cause: str, remedy: str = "") -> DeviceRefused:
        return refused(self.name, request, cause, remedy)


def refused(device: str, request: str, cause: str, remedy: str = "") -> DeviceRefused:
    """The error for what a detector answers or sends; another client is the usual cause."""
    return DeviceRefused(
        device, request, cause, remedy or "Check that no other client uses the detector"
    )


def size_text(shape: tuple[int, int]) -> str:
    """(rows, columns) in words."""
    return f"{shape[0]} x {shape[1]}"
