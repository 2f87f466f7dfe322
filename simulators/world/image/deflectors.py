"""Beam shift, focus and scan rotation of the column: what is set, what is read back, what it does.

One unit of a beam deflector is what the wire counts in: a nominal nanometre of temscript, a step
of instamatic; `SimulatedColumn.shift_matrix` says what it does to the image.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ....protocols.config.simulated import SimulatedColumn

# What the shift has left of its way after the settling time.
_LEFT = 0.01
FORGETS_AFTER_NS = 200_000_000
# An objective lens that is counted in steps: what the fine one does, and the coarse one in those.
OBJECTIVE_NM_PER_STEP, STEPS_PER_COARSE = 1.0, 32
OBJECTIVE_MIDDLE = 32_768

Pair = tuple[float, float]


class Deflectors:
    """Deflectors and lenses, from one moment on, all at zero.

    Attributes
    ----------
    image_shift : tuple of float
        Below the specimen: it does not move the field of a scan.
    probe_defocus_nm, defocus_nm : float
        Both lift the focus along the beam.
    objective : dict
        Steps of the ``coarse`` and the ``fine`` objective lens.
    rotation_deg : float
        Of the scan.
    inverted, forgets : bool
        Faults: the image goes the other way, the shift returns to zero by itself.
    clip_units : float or None
        Fault: where the deflectors stop in place of `shift_limit`.
    focus_jump_nm : float
        Fault: by how much the focus is elsewhere than the lenses say.
    """

    def __init__(self, config: SimulatedColumn, t_ns: int) -> None:
        self._config = config
        self._before: Pair = (0.0, 0.0)
        self._set: Pair = (0.0, 0.0)
        self._since_ns = t_ns
        self.image_shift: Pair = (0.0, 0.0)
        self.probe_defocus_nm = self.defocus_nm = 0.0
        self.objective = {"coarse": OBJECTIVE_MIDDLE, "fine": OBJECTIVE_MIDDLE}
        self.rotation_deg = 0.0
        self.inverted = self.forgets = False
        self.clip_units: float | None = None
        self.focus_jump_nm = 0.0

    def shift(self, t_ns: int, units: Pair) -> None:
        """Set the beam deflectors; beyond their limit they stay at it and say nothing."""
        limit = self._config.shift_limit_nm if self.clip_units is None else self.clip_units
        if limit is not None:
            first, second = (min(max(value, -limit), limit) for value in units)
            units = first, second
        self._before, self._set, self._since_ns = self._acting(t_ns), units, t_ns

    def read_back(self, t_ns: int) -> Pair:
        """What the deflectors are set to."""
        return (0.0, 0.0) if self._forgotten(t_ns) else self._set

    def image_shift_nm(self, t_ns: int) -> Pair:
        """By how much the beam shift moves the image, (y, x)."""
        first, second = self._acting(t_ns)
        if first == second == 0.0:
            return 0.0, 0.0
        (yy, yx), (xy, xx) = self._config.shift_matrix
        sign = -1.0 if self.inverted else 1.0
        y, x = sign * (yy * first + yx * second), sign * (xy * first + xx * second)
        return rotated(y, x, -self.rotation_deg)

    @property
    def focus_nm(self) -> float:
        """Height along the beam that is in focus, over where it was at first."""
        steps = STEPS_PER_COARSE * (self.objective["coarse"] - OBJECTIVE_MIDDLE)
        steps += self.objective["fine"] - OBJECTIVE_MIDDLE
        lenses = self.probe_defocus_nm + self.defocus_nm + OBJECTIVE_NM_PER_STEP * steps
        return lenses + self.focus_jump_nm

    def _forgotten(self, t_ns: int) -> bool:
        return self.forgets and t_ns >= self._since_ns + FORGETS_AFTER_NS

    def _acting(self, t_ns: int) -> Pair:
        """What acts on the beam: what is set, once it has settled."""
        if self._forgotten(t_ns):
            return 0.0, 0.0
        settle_s = self._config.shift_settle_s
        since_s = (t_ns - self._since_ns) * 1e-9
        if since_s < 0.0:
            return self._before
        if since_s >= 3.0 * settle_s:
            return self._set
        left = math.exp(math.log(_LEFT) * since_s / settle_s)
        before, after = np.array(self._before), np.array(self._set)
        first, second = after + left * (before - after)
        return float(first), float(second)


def scan_matrix_at(
    matrix: tuple[tuple[float, float], tuple[float, float]], rotation_deg: float
) -> NDArray[np.float64]:
    """What the scan coils do to a scan that is rotated, in the axes (y, x) of its picture.

    The coils distort every scan in their own axes; a picture is turned against these.
    """
    cos, sin = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    turn = np.array([[cos, sin], [-sin, cos]])
    return np.asarray(turn.T @ np.array(matrix) @ turn, np.float64)


def rotated(y: float, x: float, angle_deg: float) -> Pair:
    """A vector (y, x), turned counter-clockwise in a picture with its first row at the bottom."""
    if angle_deg == 0.0:
        return y, x
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return y * cos + x * sin, x * cos - y * sin
