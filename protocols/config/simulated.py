"""What a rig says of its simulated instruments: the physical world behind the endpoints.

Stage, chip and column have errors of two kinds. With `ideal` they are those of an instrument that
needs neither tracking nor focusing, for tests that need stillness; without it they have the size
that is found on real ones. What is written beside `ideal` holds in either case. Sources of the
sizes: decision record 22.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StrictBool, field_validator, model_validator

from ..core.documents import Strict
from ..core.units import (
    AngleDeg,
    ConeMrad,
    DurationS,
    ExpansionNmPerK,
    Fraction,
    LengthNm,
    SpeedDegPerS,
    SpeedNmPerS,
    VoltageKv,
)

MOST_DISTORTION = 0.2
# Nanometres of the image, (y, x), that one unit of the first and of the second deflector is worth.
Matrix = tuple[tuple[float, float], tuple[float, float]]


class CuSintering(Strict):
    """Simulated specimen: Cu nanoparticles that sinter."""

    kind: Literal["cu-sintering"] = "cu-sintering"
    particles: Annotated[int, Field(ge=1, le=500)] = 36


class Replay(Strict):
    """Simulated specimen: a recorded tilt series, nearest angle, exact values plus an offset."""

    kind: Literal["replay"]
    stack: str
    tilts: str
    value_offset: int = 0


class ZrZrO2(Strict):
    """Simulated specimen: an oxidised zirconium particle, atom by atom.

    Attributes
    ----------
    atoms : int
        Number of zirconium atoms; oxygen comes on top. 8000 are a particle of 8 nm.
    film_nm : float
        Thickness of the amorphous carbon film below it; 0: none.
    """

    kind: Literal["zr-zro2"]
    atoms: Annotated[int, Field(ge=20, le=40_000)] = 8000
    film_nm: Annotated[LengthNm, Field(ge=0, le=50)] = Field(default=0.0, alias="film")


class Si110(Strict):
    """Simulated specimen: a crystal of silicon seen along [110], to calibrate pixels with.

    Attributes
    ----------
    thickness_nm, side_nm : float
        Along the beam at tilt 0, and of the square across it.
    turn_deg : float
        Direction of [001] in the image, from the columns towards the rows.
    """

    kind: Literal["si-110"]
    thickness_nm: Annotated[LengthNm, Field(gt=0, le=50)] = Field(default=5.0, alias="thickness")
    side_nm: Annotated[LengthNm, Field(gt=0, le=60)] = Field(default=24.0, alias="side")
    turn_deg: AngleDeg = Field(default=0.0, alias="turn")


class WithErrors(Strict):
    """An instrument whose errors are small, or as `REALISTIC` says where a rig sets no other."""

    REALISTIC: ClassVar[Mapping[str, Any]] = {}

    ideal: StrictBool = True

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        written: dict[str, Any] = dict(data)
        if written.get("ideal", cls.model_fields["ideal"].default) is not False:
            return written
        names = {field.alias or name: name for name, field in cls.model_fields.items()}
        for key, value in cls.REALISTIC.items():
            if key not in written and names[key] not in written:
                written[key] = value
        return written


class SimulatedChip(WithErrors):
    """Simulated MEMS heater, and the membrane that carries the specimen.

    Attributes
    ----------
    bulge_nm_per_k : float
        Rise of the membrane for each kelvin above 25 degC. About 0.8 um per 100 K, 5 um at 650
        degC, for conventional silicon nitride membranes; 0.1 um at 800 degC for a CNT heater (ACS
        Appl. Mater. Interfaces 2024, 16, 25080).
    hysteresis : float
        Share of a hold's rise that stays after it, on average; it scatters by as much. Assumed.
    hold_jump_nm : float
        Lateral jump when a hold ends, in a direction of the chip's own. Assumed.
    drift_nm_per_s, drift_decay_s : float
        Lateral drift after a hold, at its beginning, and the time in which it falls to 1/e. No
        published figure was found: waiting times of tomography programs suggest the order.
    """

    REALISTIC: ClassVar[Mapping[str, Any]] = {
        "bulge": "8 nm/K",
        "hysteresis": "5 %",
        "hold_jump": "100 nm",
        "drift": "5 nm/s",
    }

    time_constant_s: DurationS = Field(default=0.015, alias="time_constant", gt=0)
    overshoot: float = Field(default=0.22, ge=0, le=1)
    overshoot_decay_s: DurationS = Field(default=5.6, alias="overshoot_decay", gt=0)
    noise_c: float = Field(default=0.05, ge=0)
    sample_every_s: DurationS = Field(default=0.01, alias="sample_every", gt=0)
    bulge_nm_per_k: ExpansionNmPerK = Field(default=0.0, alias="bulge")
    hysteresis: Fraction = Field(default=0.0, ge=0, le=1)
    hold_jump_nm: LengthNm = Field(default=0.0, alias="hold_jump", ge=0)
    drift_nm_per_s: SpeedNmPerS = Field(default=0.0, alias="drift", ge=0)
    drift_decay_s: DurationS = Field(default=60.0, alias="drift_decay", gt=0)


class SimulatedGoniometer(WithErrors):
    """Simulated stage.

    Attributes
    ----------
    height_nm, offset_nm : float
        Where the specimen is at tilt 0 seen from the tilt axis: along the beam, and across beam
        and axis. Leginon expects heights up to 2 um (`z0 error`).
    jitter_nm : float
        Displacement of the image at each tilt, rms per axis. 10 to 50 nm and more between
        exposures on cryo stages; a good stage is predicted within 15 nm (Zheng et al., J. Struct.
        Biol. 147, 91 (2004)).
    reproducible : float
        Part of its variance that comes back at the same asked angle; half of that is smooth over
        10 deg, half free for each angle. Assumed.
    slips, slip_nm : float
        Share of tilts at which the stage slips, and by how much; that stays. Assumed.
    way_back_nm : float
        Displacement that stays after a tilt by more than 10 deg, rms per axis. Assumed.
    axis_turn_deg : float
        Direction of the tilt axis in the image of a scan without rotation; counter-clockwise
        positive in a picture with its first row at the bottom.
    xy_backlash_nm : float
        Play of the drives of x and y. 0.3 um as in the column of de-twin.
    creep_nm_per_s : float
        Steady drift of the image between two tilts, rms per axis; another one after each tilt.
    tilt_error_deg : float
        By how much the specimen is tilted otherwise than the encoder says, rms; another one after
        each tilt.
    """

    REALISTIC: ClassVar[Mapping[str, Any]] = {
        "eucentric_error_nm": 0.0,
        "drift_nm": 0.0,
        "height": "2000 nm",
        "offset": "500 nm",
        "jitter": "60 nm",
        "slips": "0.5 %",
        "way_back": "80 nm",
        "axis_turn": "1.5 deg",
        "xy_backlash": "300 nm",
    }

    speed_deg_per_s: SpeedDegPerS = Field(default=20.0, alias="speed", gt=0)
    tilt_deg: tuple[AngleDeg, AngleDeg] = Field(default=(-80.0, 80.0), alias="tilt")
    settling_s: DurationS = Field(default=0.1, alias="settling", ge=0)
    backlash_deg: AngleDeg = Field(default=0.02, alias="backlash", ge=0)
    readback_noise_deg: AngleDeg = Field(default=0.002, alias="readback_noise", ge=0)
    eucentric_error_nm: float = Field(default=15.0, ge=0)
    drift_nm: float = Field(default=5.0, ge=0)
    height_nm: LengthNm = Field(default=0.0, alias="height")
    offset_nm: LengthNm = Field(default=0.0, alias="offset")
    jitter_nm: LengthNm = Field(default=0.0, alias="jitter", ge=0)
    reproducible: Fraction = Field(default=0.5, ge=0, le=1)
    slips: Fraction = Field(default=0.0, ge=0, le=1)
    slip_nm: LengthNm = Field(default=300.0, alias="slip", ge=0)
    way_back_nm: LengthNm = Field(default=0.0, alias="way_back", ge=0)
    axis_turn_deg: AngleDeg = Field(default=0.0, alias="axis_turn")
    xy_backlash_nm: LengthNm = Field(default=0.0, alias="xy_backlash", ge=0)
    creep_nm_per_s: SpeedNmPerS = Field(default=0.0, alias="creep", ge=0)
    tilt_error_deg: AngleDeg = Field(default=0.0, alias="tilt_error", ge=0)


class SimulatedColumn(WithErrors):
    """Simulated column.

    Attributes
    ----------
    shift_matrix : tuple
        Image shift in nm, rows (y, x), for one unit of each beam deflector (columns): a nominal
        nanometre of temscript, a step of instamatic. Scales off by some per cent and axes turned
        are the rule: SerialEM and instamatic calibrate both.
    shift_limit_nm : float, optional
        Nominal shift of one deflector beyond which it stays at the limit and says nothing; the
        value read back tells. None: no limit, as the null microscope of temscript.
    shift_settle_s : float
        Time after which a shift is there to within 1 %.
    convergence_mrad : float
        Half angle of the probe: out of focus by dz, a point is a disc of radius dz times it.
    rolling : bool
        Whether each row of a frame shows the specimen where it is at the time of that row.
    scan_matrix : tuple
        Displacement (y, x) of the probe for a nominal one of the scan without rotation. Seen by
        specimens of atoms.
    scan_jitter_nm : float
        Displacement of each row of a scan, rms per axis.
    probe_nm : float
        Standard deviation of the focused probe along an axis. Seen by specimens of atoms, as is its
        tail: electrons in it over those in the peak, and the standard deviation of what widens
        it. The sizes fit the multislice images of Yang et al., Nature 592, 60 (2021).
    """

    REALISTIC: ClassVar[Mapping[str, Any]] = {
        "shift_matrix": [[-0.185, -0.988], [-1.026, 0.212]],
        "shift_limit": "2000 nm",
        "shift_settle": "10 ms",
        "rolling": True,
    }

    voltage_kv: VoltageKv = Field(default=300.0, alias="voltage", gt=0)
    shift_matrix: Matrix = ((0.0, -1.0), (-1.0, 0.0))
    shift_limit_nm: LengthNm | None = Field(default=None, alias="shift_limit", gt=0)
    shift_settle_s: DurationS = Field(default=0.0, alias="shift_settle", ge=0)
    convergence_mrad: ConeMrad = Field(default=1.2, alias="convergence", ge=0, le=100)
    rolling: bool = False
    scan_matrix: Matrix = ((1.0, 0.0), (0.0, 1.0))
    scan_jitter_nm: LengthNm = Field(default=0.0, alias="scan_jitter", ge=0)
    probe_nm: LengthNm = Field(default=0.042, alias="probe", gt=0, le=1)
    probe_tail: Annotated[float, Field(ge=0, le=2)] = 0.2
    probe_tail_nm: LengthNm = Field(default=0.15, alias="probe_tail_width", gt=0, le=2)

    @field_validator("scan_matrix")
    @classmethod
    def _nearly_right(cls, matrix: Matrix) -> Matrix:
        (a, b), (c, d) = matrix
        if max(abs(a - 1), abs(d - 1), abs(b), abs(c)) > MOST_DISTORTION:
            raise ValueError(
                f"more than {MOST_DISTORTION:.0%} off [[1, 0], [0, 1]]; a scan is not that wrong"
            )
        return matrix

    @field_validator("shift_matrix")
    @classmethod
    def _moves_both_ways(cls, matrix: Matrix) -> Matrix:
        (a, b), (c, d) = matrix
        if not abs(a * d - b * c) > 1e-3 * max(abs(v) for row in matrix for v in row) ** 2:
            raise ValueError("the two deflectors move the image along one line, or not at all")
        return matrix


class SimulatedDetector(Strict):
    """What the simulated detector shows without an electron, in counts of each frame.

    `offset` is in every pixel; `hot_pixels` pixels at random places show much more.
    """

    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    hot_pixels: Annotated[int, Field(ge=0, le=100_000)] = 0


def _by_name(value: object) -> object:
    """A specimen that is only named, with the sizes that it has where nothing else is said."""
    return {"kind": value} if isinstance(value, str) else value


Specimen = Annotated[
    Annotated[CuSintering | Replay | ZrZrO2 | Si110, Field(discriminator="kind")],
    BeforeValidator(_by_name),
]


class SimulatorRig(Strict):
    """The simulated world behind the endpoints; its presence makes the rig a simulated one.

    Port 0 in an endpoint lets the simulator choose; the daemon gets the port from it.
    """

    seed: int = 1
    specimen: Specimen = CuSintering()
    chip: SimulatedChip = SimulatedChip()
    goniometer: SimulatedGoniometer = SimulatedGoniometer()
    column: SimulatedColumn = SimulatedColumn()
    detector: SimulatedDetector = SimulatedDetector()
