"""The four roles as typed async interfaces, and what can go wrong with a device.

A driver is a class with one of the four roles as its base, found through the entry-point group
``pyrotome.drivers`` (see `registry.py`). Every exchange is bounded by a deadline computed from
the request. All times are nanoseconds of the experiment clock; durations that the instrument
needs physically are divided by the clock's speed before they are waited for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..protocols.config.recipe import BeamSettings
from ..protocols.config.rig import BeamRig, DetectorRig, HeaterRig, Role, StageRig
from ..protocols.core.clock import ExperimentClock
from ..protocols.core.errors import BadInput
from ..protocols.messages.manifest import FrameDtype
from .readings import (
    BeamReach,
    BeamState,
    BlankerSwitch,
    Deflection,
    DetectorFrame,
    HeaterSample,
    Identity,
    Reach,
    StagePosition,
)

# The name ``endpoint``, or that of an option, to examples of the addresses that it may be.
Endpoints = Mapping[str, Sequence[str]]

# Wall seconds granted on top of what an exchange needs physically: a busy computer, a network.
GRACE_S = 5.0


class DeviceError(Exception):
    """A device did not carry out a request.

    The text reads ``DEVICE: cannot REQUEST: CAUSE. REMEDY``.

    Parameters
    ----------
    device : str
        Role and driver, such as ``heater (secop)``.
    request : str
        What failed, as a verb with its object: ``ramp to 850 degC``.
    cause : str
        What the instrument answered, or why there is no answer.
    remedy : str
        What the operator can do, as a command: ``Check that ...``.
    """

    def __init__(self, device: str, request: str, cause: str, remedy: str = "") -> None:
        text = f"{device}: cannot {request}: {cause}"
        super().__init__(f"{text}. {remedy}" if remedy else text)
        self.device, self.request, self.cause, self.remedy = device, request, cause, remedy


class DeviceRefused(DeviceError):
    """The instrument answered with a refusal or an error."""


class DeviceLost(DeviceError):
    """No answer within the deadline, or the connection broke."""


class OutOfRange(DeviceError):
    """The request is beyond the limits of the rig or the instrument; nothing was sent."""


class NoOptions(BaseModel):
    """Options of a driver that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Device(ABC):
    """What every device has: connect and identify, make safe, disconnect.

    Attributes
    ----------
    role : str
        Which role the class fills.
    Options : type of BaseModel
        The options that a rig may give this driver; unknown ones are refused.
    endpoints : mapping
        Which addresses the driver takes: for ``endpoint``, and for each option that is an address,
        examples of the right forms, such as ``{"endpoint": ("tcp://HOST:6341",)}``. A rig with
        another form is refused before anything is connected; what is not named is not checked.
    channels : mapping
        Telemetry channel to unit.
    start_timeout_s : float
        Wall seconds after which the daemon no longer waits for `connect`.
    """

    role: ClassVar[Role]
    summary: ClassVar[str] = ""
    Options: ClassVar[type[BaseModel]] = NoOptions
    endpoints: ClassVar[Endpoints] = {}
    channels: ClassVar[Mapping[str, str]] = {}
    start_timeout_s: ClassVar[float] = 30.0

    def __init__(self, name: str, clock: ExperimentClock) -> None:
        self.name = name
        self.clock = clock

    @classmethod  # noqa: B027 most drivers have nothing more to check
    def check_rig(cls, rig: Any) -> None:
        """Check what this driver needs of its entry in the rig, without touching hardware.

        Called by ``pyrotome check``, and before anything is started; forms of endpoints and whether
        files exist have been checked by then.

        Parameters
        ----------
        rig : HeaterRig, StageRig, BeamRig or DetectorRig
            The entry.

        Raises
        ------
        BadInput
            Naming the path inside the rig, such as ``heater.options.calibration_file``.
        """

    @abstractmethod
    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Open the connection and identify the instrument.

        Raises
        ------
        DeviceLost
            If no answer comes within `timeout_s` wall seconds.
        DeviceRefused
            If another instrument answers.
        """

    @abstractmethod
    async def disconnect(self) -> None:
        """Close the connection and end every task of the driver; harmless when not connected."""

    @abstractmethod
    async def make_safe(self) -> None:
        """Bring the device to its safe state from any state; returns when confirmed.

        Raises
        ------
        DeviceError
            If that could not be confirmed.
        """


class Heater(Device):
    """A chip with a heater that follows a temperature."""

    role: ClassVar[Role] = "heater"

    def __init__(self, name: str, rig: HeaterRig, clock: ExperimentClock) -> None:
        super().__init__(name, clock)
        self.rig = rig
        # When `make_safe` last sent its command, where the driver tells.
        self.safe_sent_ns: int | None = None

    @abstractmethod
    async def set_temperature(self, temperature_c: float) -> int:
        """Go there as fast as the chip can (or the rig's rate allows).

        Returns
        -------
        int
            Moment at which the command went out.
        """

    @abstractmethod
    async def start_ramp(self, temperature_c: float, duration_s: float) -> int:
        """Go there linearly in a given time; returns the moment at which the command went out."""

    @abstractmethod
    async def hold_here(self) -> None:
        """Stop a ramp and stay at the temperature that it has reached."""

    @abstractmethod
    def samples(self) -> AsyncIterator[HeaterSample]:
        """Readings as the instrument sends them, until it disconnects.

        Raises
        ------
        DeviceLost
            If readings cease.
        """


class Stage(Device):
    """A goniometer with one tilt axis."""

    role: ClassVar[Role] = "stage"

    def __init__(self, name: str, rig: StageRig, clock: ExperimentClock) -> None:
        super().__init__(name, clock)
        self.rig = rig

    @abstractmethod
    async def move_to(
        self,
        tilt_deg: float,
        *,
        x_nm: float | None = None,
        y_nm: float | None = None,
        z_nm: float | None = None,
    ) -> StagePosition:
        """Move, wait until the stage has arrived and settled, and read back.

        z moves before the tilt, x and y after it; an axis with a backlash arrives from below. A
        stage that only tilts may leave the others out: nobody names an axis that `reach` lacks.

        Parameters
        ----------
        tilt_deg : float
            Where to tilt.
        x_nm, y_nm, z_nm : float, optional
            Where to bring the other axes; those that are left out stay.

        Raises
        ------
        OutOfRange
            If a target is beyond the limits of rig or instrument; nothing moves.
        DeviceRefused
            If the stage has no such axis (nothing moves), or stands elsewhere.
        DeviceLost
            If it has not arrived by the deadline (distance over speed, settling, grace).
        """

    async def reach(self) -> Mapping[str, Reach | None]:
        """How far ``tilt`` (deg), ``x``, ``y`` and ``z`` (nm) may be sent; None: not at all."""
        low, high = await self.tilt_limits_deg()
        return {"tilt": Reach(low, high), "x": None, "y": None, "z": None}

    @abstractmethod
    async def position(self) -> StagePosition:
        """Read back."""

    @abstractmethod
    async def tilt_limits_deg(self) -> tuple[float, float]:
        """Lowest and highest tilt that the instrument itself allows."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop moving; returns when the stage stands."""


class Beam(Device):
    """The column: illumination and blanker."""

    role: ClassVar[Role] = "beam"

    def __init__(self, name: str, rig: BeamRig, clock: ExperimentClock) -> None:
        super().__init__(name, clock)
        self.rig = rig
        # The latest command to the blanker, where the driver tells; read-back does not count.
        self.switched: BlankerSwitch | None = None

    @classmethod
    def check_rig(cls, rig: Any) -> None:
        """Check that the driver can shift the beam where the rig says how; see `Device`."""
        if rig.shift is not None and cls.deflect_units is Beam.deflect_units:
            raise BadInput("beam.shift", f"{rig.driver} cannot shift the beam; leave it out")

    @abstractmethod
    async def prepare(self, settings: BeamSettings) -> None:
        """Set probe current and field of view, and check the high tension; beam stays blanked."""

    @abstractmethod
    async def blank(self) -> int:
        """Blank the beam; returns the moment at which the instrument confirmed."""

    @abstractmethod
    async def unblank(self) -> int:
        """Unblank the beam; returns the moment at which the command went out."""

    @abstractmethod
    async def is_blanked(self) -> bool:
        """Read back."""

    async def state(self) -> BeamState:
        """Read back the blanker, and valves and vacuum where the microscope tells of them."""
        return BeamState(await self.is_blanked())

    async def reach(self) -> BeamReach:
        """How far shift, focus and scan rotation may be set; None for what this column lacks."""
        return BeamReach()

    async def deflect(self, shift_nm: tuple[float, float]) -> int:
        """Shift the image by the beam deflectors, wait until it has settled, and read back.

        Parameters
        ----------
        shift_nm : tuple of float
            (y, x) of the image, from where the calibration has its zero.

        Returns
        -------
        int
            Moment of the confirmation.

        Raises
        ------
        OutOfRange
            If the shift is beyond the rig's limit; nothing is sent.
        DeviceRefused
            If the column has no shift or no calibration that holds (nothing is sent), or reads back
            something else than it was sent.
        """
        raise self._lacks("shift the beam")

    async def deflect_units(self, units: tuple[float, float]) -> int:
        """Set the deflectors in their own unit, for a calibration; otherwise as `deflect`."""
        raise self._lacks("set the beam deflectors")

    async def deflection(self) -> Deflection:
        """Read back the deflectors; DeviceRefused if the column has none."""
        raise self._lacks("read the beam deflectors")

    async def focus(self, defocus_nm: float) -> int:
        """Focus on another height, and read back.

        Parameters
        ----------
        defocus_nm : float
            Height along the beam, over the one that was in focus when the beam was first prepared.

        Returns
        -------
        int
            Moment of the confirmation.

        Raises
        ------
        OutOfRange
            If it is beyond the rig's limit; nothing is sent.
        DeviceRefused
            If the column's focus cannot be set, or reads back something else than it was sent.
        """
        raise self._lacks("change the focus")

    async def turn_scan(self, rotation_deg: float) -> None:
        """Turn the scan, and read back; `prepare` turns it to the rig's rotation again.

        Parameters
        ----------
        rotation_deg : float
            Scan rotation, within -180 to 180.

        Raises
        ------
        DeviceRefused
            If the column's scan cannot be turned, or reads back something else than it was sent.
        """
        raise self._lacks("turn the scan")

    def _lacks(self, request: str) -> DeviceRefused:
        return DeviceRefused(
            self.name, request, "this driver cannot; nothing was sent", "Leave it out of the recipe"
        )


class Detector(Device):
    """A detector that is armed for a number of frames and triggered for each."""

    role: ClassVar[Role] = "detector"
    # Whether the highest number of the pixel type means: not measured.
    marks_by_highest: ClassVar[bool] = False

    def __init__(self, name: str, rig: DetectorRig, clock: ExperimentClock) -> None:
        super().__init__(name, clock)
        self.rig = rig

    @property
    def dtype(self) -> FrameDtype:
        """Pixel type of the frames, known from the rig's options before connecting."""
        return "uint16"

    @property
    def marked_value(self) -> int | None:
        """Number by which the detector marks a pixel that it has not measured; None: it does not.

        Saturated pixels and masked ones, as the gaps between chips.
        """
        return int(np.iinfo(self.dtype).max) if self.marks_by_highest else None

    @abstractmethod
    async def arm(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int = 1
    ) -> None:
        """Prepare an acquisition of triggered frames of one shape.

        Parameters
        ----------
        frames : int
            In all; a multiple of `frames_per_trigger`.
        exposure_s : float
            Of each; those of one trigger follow each other as closely as the detector can.
        shape : tuple of int
            (rows, columns).
        frames_per_trigger : int
            Frames that each trigger starts.
        """

    def period_s(self, exposure_s: float) -> float:
        """Time from the start of one exposure to that of the next in a trigger, as armed.

        Longer than the exposure where the detector is read out between them.
        """
        return exposure_s

    @abstractmethod
    async def trigger(self) -> int:
        """Start the exposures of one trigger; returns the moment at which the command went out."""

    async def exposed(self) -> bool:
        """Wait until the instrument says that the exposures of the latest trigger are over.

        The beam stays on until then: a trigger that took long to arrive would be cut off otherwise.

        Returns
        -------
        bool
            False if the instrument should have said so for longer than it may take. True at once
            for one that does not tell.
        """
        return True

    @abstractmethod
    async def read_frame(self) -> DetectorFrame:
        """The next frame of the acquisition.

        Raises
        ------
        DeviceLost
            If it has not come by the deadline (exposure, transfer, grace).
        """

    @abstractmethod
    async def disarm(self) -> None:
        """End the acquisition; frames on their way are discarded."""
