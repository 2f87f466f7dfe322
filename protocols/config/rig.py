"""The rig: which instruments fill the roles, within which limits, and where the streams are."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from ..core.documents import Model, Strict, load_model, read_text
from ..core.errors import BadInput, Misplaced
from ..core.units import (
    AngleDeg,
    ConeMrad,
    CurrentPa,
    DifferenceC,
    DurationS,
    LengthNm,
    RateCPerS,
    SpeedDegPerS,
    TemperatureC,
)
from .simulated import Replay, SimulatorRig
from .supervision import GuardianRig, SupervisorRig

ROLES = ("heater", "stage", "beam", "detector")
Role = Literal["heater", "stage", "beam", "detector"]


class HeaterLimits(Strict):
    """Limits of what is requested from the chip, and when it counts as being there.

    That is when it has read within `tolerance_c` of its target for `settle_s`.
    """

    temperature_c: TemperatureC = Field(default=1000.0, alias="temperature")
    safe_c: TemperatureC = Field(default=25.0, alias="safe_temperature")
    rate_c_per_s: RateCPerS | None = Field(default=None, alias="rate", gt=0)
    tolerance_c: DifferenceC = Field(default=3.0, alias="tolerance", gt=0)
    settle_s: DurationS = Field(default=0.5, alias="settle", ge=0)


class StageLimits(Strict):
    """Limits of what is requested from the goniometer.

    An axis x, y or z without limits is not moved. `move_nm` bounds one move of such an axis,
    `xy_backlash_nm` is what x and y are approached from below by, `move_error_nm` how far from
    where it was sent the stage may stand and counts as arrived.
    """

    tilt_deg: tuple[AngleDeg, AngleDeg] = Field(default=(-70.0, 70.0), alias="tilt")
    x_nm: tuple[LengthNm, LengthNm] | None = Field(default=None, alias="x")
    y_nm: tuple[LengthNm, LengthNm] | None = Field(default=None, alias="y")
    z_nm: tuple[LengthNm, LengthNm] | None = Field(default=None, alias="z")
    move_nm: LengthNm = Field(default=20_000.0, alias="move", gt=0)
    xy_backlash_nm: LengthNm = Field(default=0.0, alias="xy_backlash", ge=0)
    move_error_nm: LengthNm = Field(default=200.0, alias="move_error", gt=0)
    speed_deg_per_s: SpeedDegPerS = Field(default=10.0, alias="speed", gt=0)
    settle_s: DurationS = Field(default=0.3, alias="settle", ge=0)
    tolerance_deg: AngleDeg = Field(default=0.05, alias="tolerance", gt=0)
    backlash_deg: AngleDeg = Field(default=0.0, alias="backlash", ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> StageLimits:
        for name in ("tilt_deg", "x_nm", "y_nm", "z_nm"):
            pair: tuple[float, float] | None = getattr(self, name)
            if pair is not None and pair[0] >= pair[1]:
                axis = name.partition("_")[0]
                raise ValueError(f"{axis} limits must be written as [lowest, highest]")
        return self


class BeamLimits(Strict):
    """Limits of what is requested from the column."""

    current_pa: CurrentPa | None = Field(default=None, alias="current", gt=0)


class DetectorLimits(Strict):
    """Limits of what is requested from the detector."""

    frame: tuple[int, int] = (16_384, 16_384)


class DeviceRig(Strict):
    """A driver and where it finds its instrument.

    An option whose name ends in ``_file`` is a path, taken from the rig file's folder.
    """

    driver: str = Field(min_length=1, max_length=100)
    endpoint: str = Field(max_length=500)
    options: dict[str, Any] = Field(default_factory=dict)


class HeaterRig(DeviceRig):
    """The heater's driver and limits."""

    limits: HeaterLimits = HeaterLimits()


class StageRig(DeviceRig):
    """The stage's driver and limits.

    `tilt_axis_deg` is the direction of the tilt axis in the images, for the alignment: the rotation
    angle of SerialEM and IMOD. Without it the alignment finds the axis.
    """

    tilt_axis_deg: AngleDeg | None = Field(default=None, alias="tilt_axis", ge=-360, le=360)
    limits: StageLimits = StageLimits()


class ShiftRig(Strict):
    """How the beam may be shifted.

    Attributes
    ----------
    calibration_file : str, optional
        What the deflectors do to the image, see `shift_calibration`; taken from the rig file's
        folder. A file that is not there yet means that the shift has to be calibrated.
    nominal_nm : float
        What one unit of a deflector moves the image by, roughly: bounds the shifts that are tried
        for a calibration.
    limit_nm : float
        Largest shift.
    hand_over_nm : float
        Shift beyond which the stage takes it over, between series.
    settle_s : float
        Wait after a shift.
    """

    calibration_file: str | None = Field(default=None, min_length=1, max_length=1000)
    nominal_nm: LengthNm = Field(default=1.0, alias="nominal", gt=0)
    limit_nm: LengthNm = Field(default=1500.0, alias="limit", gt=0)
    hand_over_nm: LengthNm = Field(default=1000.0, alias="hand_over", gt=0)
    settle_s: DurationS = Field(default=0.03, alias="settle", ge=0)

    @model_validator(mode="after")
    def _handed_over_in_time(self) -> ShiftRig:
        if self.hand_over_nm > self.limit_nm:
            raise ValueError("hand_over is beyond limit: the shift would never be handed over")
        return self


class FocusRig(Strict):
    """How the focus may be changed: by a lens of the column, or by the stage's z.

    `limit_nm` is the largest change from the focus that was found when the beam was prepared;
    `convergence_mrad` the half angle of the probe, for the depth of focus. `dynamic` tells that the
    column itself follows the height of a tilted field while it scans.
    """

    by: Literal["probe_defocus", "defocus", "stage"] = "stage"
    limit_nm: LengthNm = Field(default=20_000.0, alias="limit", gt=0)
    convergence_mrad: ConeMrad | None = Field(default=None, alias="convergence", gt=0, le=100)
    dynamic: bool = False


class BeamRig(DeviceRig):
    """The column's driver and limits.

    Without `shift` or `focus` the beam is not shifted or the focus not changed. `scan_rotation_deg`
    is set when the beam is prepared, so that the tilt axis lies along the columns of the images.
    `pixel_calibration_file` holds what a pixel is worth; it may not be there yet.
    """

    limits: BeamLimits = BeamLimits()
    shift: ShiftRig | None = None
    focus: FocusRig | None = None
    scan_rotation_deg: AngleDeg | None = Field(default=None, alias="scan_rotation", ge=-180, le=180)
    pixel_calibration_file: str | None = Field(default=None, min_length=1, max_length=1000)


class DetectorRig(DeviceRig):
    """The detector's driver and limits. `value_offset` was added to every recorded value."""

    limits: DetectorLimits = DetectorLimits()
    value_offset: int = 0


class Streams(Strict):
    """Where the daemon publishes and listens."""

    monitor: str = "tcp://127.0.0.1:5571"
    control: str = "tcp://127.0.0.1:5570"

    @staticmethod
    def is_local(endpoint: str) -> bool:
        """Whether only programs on this machine reach what is bound to an endpoint."""
        scheme, _, rest = endpoint.partition("://")
        if scheme in ("ipc", "inproc"):
            return True
        host = rest.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


class Security(Strict):
    """Keys that every client of the daemon needs.

    `keys` is a folder made by ``pyrotome keys``, taken from the rig file's folder. `lease_s` is how
    long one operator keeps control without renewing it.
    """

    keys: str = Field(min_length=1, max_length=1000)
    lease_s: DurationS = Field(default=60.0, alias="lease", ge=1, le=86_400)


class MqttTls(Strict):
    """TLS to the broker; files are taken from the rig file's folder."""

    ca_file: str = Field(min_length=1, max_length=1000)
    cert_file: str | None = Field(default=None, min_length=1, max_length=1000)
    key_file: str | None = Field(default=None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _together(self) -> MqttTls:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: name both or neither")
        return self


class Mqtt(Strict):
    """Broker for telemetry; topics are ``<topic>/<device>/<channel>``.

    The password is the first line of `password_file`, which only its owner may read.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    topic: str = Field(default="pyrotome", pattern=r"^[^#+]+$", max_length=200)
    interval_s: DurationS = Field(default=0.5, alias="interval", gt=0)
    tls: MqttTls | None = None
    username: str | None = Field(default=None, min_length=1, max_length=200)
    password_file: str | None = Field(default=None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _named(self) -> Mqtt:
        if self.password_file is not None and self.username is None:
            raise ValueError("a password_file needs a username")
        return self


class Rig(Strict):
    """A whole instrument."""

    name: str = Field(min_length=1, max_length=200)
    heater: HeaterRig
    stage: StageRig
    beam: BeamRig
    detector: DetectorRig
    streams: Streams = Streams()
    security: Security | None = None
    mqtt: Mqtt | None = None
    goniometer_file: str | None = Field(default=None, min_length=1, max_length=1000)
    simulator: SimulatorRig | None = None
    supervisor: SupervisorRig = SupervisorRig()
    guardian: GuardianRig = GuardianRig()

    @model_validator(mode="after")
    def _guarded(self) -> Rig:
        for name in ("monitor", "control"):
            endpoint: str = getattr(self.streams, name)
            if self.security is None and not Streams.is_local(endpoint):
                raise Misplaced(
                    f"'{endpoint}' can be reached from other machines, which needs keys: make some "
                    "with `pyrotome keys init FOLDER` and name them, security: {keys: FOLDER}; or "
                    "listen on 127.0.0.1",
                    "streams", name,
                )  # fmt: skip
        return self

    def device(self, role: Role) -> HeaterRig | StageRig | BeamRig | DetectorRig:
        """The entry of one role."""
        return getattr(self, role)


# Every instrument simulated, on ports chosen freely; written as in a rig's file.
SIMULATED_RIG: Final[Mapping[str, Any]] = {
    "name": "simulated microscope",
    "heater": {
        "driver": "dens-impulse",
        "endpoint": "tcp://127.0.0.1:0",
        "options": {"data_endpoint": "tcp://127.0.0.1:0"},
    },
    "stage": {
        "driver": "temscript-stage",
        "endpoint": "http://127.0.0.1:0",
        "limits": {"tilt": ["-80 deg", "80 deg"], "speed": "20 deg/s"},
    },
    "beam": {"driver": "temscript-beam", "endpoint": "http://127.0.0.1:0"},
    "detector": {
        "driver": "merlin",
        "endpoint": "tcp://127.0.0.1:0",
        "options": {"data_endpoint": "tcp://127.0.0.1:0"},
    },
    "simulator": {},
}


def simulated_rig() -> Rig:
    """The rig used where none is named, see `SIMULATED_RIG`."""
    return Rig.model_validate(SIMULATED_RIG)


def load_rig(path: Path) -> tuple[Rig, str]:
    """Rig of a YAML file and its text; paths in it are taken from the file's folder.

    Raises
    ------
    BadInput
        If the file cannot be read or is not a valid rig.
    """
    text = read_text(path)
    return rig_of_text(text, str(path), path.resolve().parent), text


def rig_of_text(text: str, name: str, folder: Path | None) -> Rig:
    """Rig of a YAML text.

    Parameters
    ----------
    text : str
        The YAML.
    name : str
        File name for messages.
    folder : Path or None
        From where paths in it are taken; None if that is not known.

    Raises
    ------
    BadInput
        If it is not a valid rig, or has relative paths and there is no folder.
    """
    rig = load_model(Rig, text, name)

    def found(path: str, where: str) -> str:
        if folder is None and not Path(path).is_absolute():
            raise BadInput(
                f"{name}: {where}",
                f"{path} is taken from the rig file's folder, which is not there any more; "
                "name the rig file with --rig",
            )
        return str((folder or Path()) / path)

    changes: dict[str, Any] = {}
    for role in ROLES:
        entry = rig.device(role)
        files = {
            key: found(value, f"{role}.options.{key}")
            for key, value in entry.options.items()
            if key.endswith("_file") and isinstance(value, str)
        }
        options = {**entry.options, **files}
        changes[role] = entry.model_copy(update={"options": options})
    if (shift := rig.beam.shift) is not None:
        shift = _with_files(shift, "beam.shift", found)
        changes["beam"] = changes["beam"].model_copy(update={"shift": shift})
    if rig.beam.pixel_calibration_file is not None:
        changes["beam"] = _with_files(changes["beam"], "beam", found)
    simulator = rig.simulator
    if simulator is not None and isinstance(simulator.specimen, Replay):
        specimen = simulator.specimen.model_copy(
            update={
                key: found(getattr(simulator.specimen, key), f"simulator.specimen.{key}")
                for key in ("stack", "tilts")
            }
        )
        changes["simulator"] = simulator.model_copy(update={"specimen": specimen})
    if rig.goniometer_file is not None:
        changes["goniometer_file"] = found(rig.goniometer_file, "goniometer_file")
    if rig.security is not None:
        keys = found(rig.security.keys, "security.keys")
        changes["security"] = rig.security.model_copy(update={"keys": keys})
    if rig.mqtt is not None:
        mqtt = _with_files(rig.mqtt, "mqtt", found)
        if mqtt.tls is not None:
            mqtt = mqtt.model_copy(update={"tls": _with_files(mqtt.tls, "mqtt.tls", found)})
        changes["mqtt"] = mqtt
    return rig.model_copy(update=changes)


def _with_files(model: Model, where: str, found: Callable[[str, str], str]) -> Model:
    """A copy in which every ``..._file`` is a path that has been found."""
    files = {
        name: found(value, f"{where}.{name}")
        for name in type(model).model_fields
        if name.endswith("_file") and isinstance(value := getattr(model, name), str)
    }
    return model.model_copy(update=files)
