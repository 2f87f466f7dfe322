"""The true motion of a specimen in a column whose stage errs, without wires.

Every figure is a field of :class:`Errors`; they are those of the study, per axis where nothing else
is said. The specimen stands X beside and Z above the tilt axis, so that its image lies at
X cos t + Z sin t, turned a little against the scan.
"""

import math
from dataclasses import dataclass

import numpy as np

TILTS = np.arange(-40.0, 41.0, 2.0)
# Time at processing temperature before each series (Ihara et al., Nanoscale 2023, 15, 10133).
HOLDS_S = (5, 7, 5, 5, 5, 4, 5, 5, 5, 5, 10, 10, 10, 19, 20, 30, 59)
RISE_K = 150.0
TILT_S, WAY_BACK_S = 2.0, 6.0


@dataclass(frozen=True)
class Errors:
    """What errs, and by how much; lengths in nm, standard deviations where it is random."""

    height: float = 2000.0
    height_spread: float = 0.2
    axis_offset: float = 500.0
    axis_turn_deg: float = 1.5
    jitter: float = 60.0
    reproducible: float = 0.5
    course_length_deg: float = 10.0
    slips: float = 0.005
    slip: float = 300.0
    way_back: float = 80.0
    way_back_deg: float = 10.0
    hold_jump: float = 100.0
    drift_nm_per_s: float = 5.0
    drift_spread: float = 0.3
    drift_decay_s: tuple[float, float] = (42.0, 84.0)
    drift_turn_deg: float = 23.0
    wander: float = 0.3
    bulge_nm_per_k: float = 10.0
    hysteresis: float = 0.05
    hysteresis_spread: float = 0.05
    shift_error: float = 0.02
    stage_z_error: float = 0.03
    stage_z: float = 150.0

    @property
    def irreproducible(self) -> float:
        """Jitter that is new at each arrival, rms of one axis."""
        return self.jitter * math.sqrt(1.0 - self.reproducible)


class Column:
    """One column and specimen; time passes only where it is told to."""

    def __init__(self, errors: Errors, rng: np.random.Generator) -> None:
        self.errors, self.rng = errors, rng
        sign = rng.choice([-1.0, 1.0], 2)
        self.height = sign[0] * errors.height * (1 + errors.height_spread * rng.standard_normal())
        self.axis_offset = sign[1] * errors.axis_offset
        self.turn = math.radians(errors.axis_turn_deg) * rng.standard_normal()
        self.matrix = np.eye(2) + errors.shift_error * rng.standard_normal((2, 2))
        self.course = self._course()
        self.direction = rng.uniform(0, 2 * math.pi)
        self.place = np.zeros(2)
        self.drifts: list[tuple[np.ndarray, float]] = []  # what is still to go, time constant
        self.visit = np.zeros(2)
        self.tilt = 0.0
        self.time_s = 0.0
        self.place = -self.offset(np.zeros(2))  # the user has centred it
        self.focused = self._level()  # and focused

    def _course(self):
        variance = self.errors.jitter**2 * self.errors.reproducible
        apart = TILTS[:, None] - TILTS[None, :]
        smooth = np.exp(-0.5 * (apart / self.errors.course_length_deg) ** 2)
        covariance = variance * 0.5 * (smooth + np.eye(len(TILTS)))
        root = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(TILTS)))
        return root @ self.rng.standard_normal((len(TILTS), 2))

    def pass_time(self, seconds: float) -> None:
        self.time_s += seconds
        left = []
        for amplitude, decay_s in self.drifts:
            stays = math.exp(-seconds / decay_s)
            self.place = self.place + amplitude * (1 - stays)
            left.append((amplitude * stays, decay_s))
        self.drifts = left[-4:]
        spread = self.errors.wander * math.sqrt(seconds)
        self.place = self.place + spread * self.rng.standard_normal(2)

    def tilt_to(self, tilt: float) -> None:
        errors, rng = self.errors, self.rng
        far = abs(tilt - self.tilt) > errors.way_back_deg
        self.pass_time(WAY_BACK_S if far else TILT_S)
        if far:
            self.place = self.place + errors.way_back * rng.standard_normal(2)
        if rng.random() < errors.slips:
            self.place = self.place + errors.slip * rng.standard_normal(2)
        self.visit = errors.irreproducible * rng.standard_normal(2)
        self.tilt = tilt

    def hold(self, seconds: float) -> None:
        errors, rng = self.errors, self.rng
        self.pass_time(seconds)
        self.place = self.place + errors.hold_jump * rng.standard_normal(2)
        speed = errors.drift_nm_per_s * (1 + errors.drift_spread * rng.standard_normal())
        angle = self.direction + math.radians(errors.drift_turn_deg) * rng.standard_normal()
        decay_s = rng.uniform(*errors.drift_decay_s)
        way = speed * decay_s * np.array([math.sin(angle), math.cos(angle)])
        self.drifts.append((way, decay_s))
        stays = errors.hysteresis + errors.hysteresis_spread * rng.standard_normal()
        self.height += errors.bulge_nm_per_k * RISE_K * stays

    def move_z(self, asked: float) -> None:
        errors, rng = self.errors, self.rng
        scale = 1 + errors.stage_z_error * rng.standard_normal()
        self.height += asked * scale + errors.stage_z * rng.standard_normal()

    def offset(self, shift: np.ndarray) -> np.ndarray:
        """Where the specimen lies in the field (y, x), with a beam shift applied."""
        tilt = math.radians(self.tilt)
        across = self.axis_offset * math.cos(tilt) + self.height * math.sin(tilt)
        moved = across * np.array([math.sin(self.turn), math.cos(self.turn)])
        index = int(np.argmin(np.abs(TILTS - self.tilt)))
        return moved + self.place + self.course[index] + self.visit + self.matrix @ shift

    def _level(self) -> float:
        tilt = math.radians(self.tilt)
        return self.height * math.cos(tilt) - self.axis_offset * math.sin(tilt)

    def defocus(self, applied: float) -> float:
        """How far from focus the specimen is, with a defocus applied."""
        return self._level() - self.focused - applied


def outwards() -> list[float]:
    """Order of the first series: from zero to one end, then from zero to the other."""
    return [t for t in TILTS if t >= 0] + [t for t in TILTS[::-1] if t < 0]
