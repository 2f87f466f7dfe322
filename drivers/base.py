"""The four roles as typed async interfaces, and what can go wrong with a device.

A driver is a class with one of the four roles as its base, found through the entry-point group
``pyrotome.drivers`` (see `registry.py`). Every exchange is bounded by a deadline computed from
the request. All times are nanoseconds of the experiment clock; durations that the instrument
needs physically are divided by the clock's speed before they are waited for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ..protocols.config.recipe import BeamSettings
from ..protocols.config.rig import BeamRig, DetectorRig, HeaterRig, Role, StageRig
from ..protocols.core.chunk import Chunk
from ..protocols.core.clock import ExperimentClock
from ..protocols.messages.manifest import FrameDtype

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


@dataclass(frozen=True)
class Identity:
    """What an instrument says it is."""

    vendor: str
    model: str
    serial: str = ""
    firmware: str = ""

    def __str__(self) -> str:
        return " ".join(p for p in (self.vendor, self.model, self.serial, self.firmware) if p)


class NoOptions(BaseModel):
    """Options of a driver that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class HeaterSample:
    """One reading of the heater; `values` hold the channels that came with it, NaN-free."""

    t_ns: int
    temperature_c: float
    setpoint_c: float
    values: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class StagePosition:
    """Where the stage says it is."""

    t_ns: int
    tilt_deg: float
    x_nm: float = 0.0
    y_nm: float = 0.0
    z_nm: float = 0.0


@dataclass(frozen=True)
class BeamState:
    """What the column says of itself; None where it does not say.

    `valves_open` tells whether electrons can pass the column valves, `vacuum_ok` whether the vacuum
    system is ready.
    """

    blanked: bool
    valves_open: bool | None = None
    vacuum_ok: bool | None = None


@dataclass(frozen=True)
class BlankerSwitch:
    """A command to the blanker: when it went out, and when the instrument answered (ns).

    The beam went on or off at some moment between the two.
    """

    sent_ns: int
    answered_ns: int

    @property
    def at_ns(self) -> int:
        """The middle, the best estimate of that moment."""
        return (self.sent_ns + self.answered_ns) // 2


FrameData = NDArray[np.unsignedinteger[Any]] | Chunk


@dataclass(frozen=True)
class DetectorFrame:
    """One frame.

    `data` is (rows, columns), C-ordered, little-endian unsigned integers of the detector's `dtype`,
    or a chunk as the detector compressed it, which goes into the file as it is.
    `number` is the detector's own count within the acquisition, from 1. `extra` is how many frames
    that nobody has triggered came before this one; they are dropped, and `number` leaves them out.
    """

    number: int
    data: FrameData
    received_ns: int
    extra: int = 0


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
    async def move_to(self, tilt_deg: float) -> StagePosition:
        """Tilt, wait until the stage has arrived and settled, and read back.

        Raises
        ------
        OutOfRange
            If the angle is beyond the limits of rig or instrument; nothing moves.
        DeviceLost
            If it has not arrived by the deadline (distance over speed, settling, grace).
        """

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


class Detector(Device):
    """A detector that is armed for a number of frames and triggered for each."""

    role: ClassVar[Role] = "detector"

    def __init__(self, name: str, rig: DetectorRig, clock: ExperimentClock) -> None:
        super().__init__(name, clock)
        self.rig = rig

    @property
    def dtype(self) -> FrameDtype:
        """Pixel type of the frames, known from the rig's options before connecting."""
        return "uint16"

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
