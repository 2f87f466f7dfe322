"""What the beam deflectors do to the image, measured: the file that a rig's beam.shift names.

It holds for the high tension, the field of view and the scan rotation at which it was measured:
the strength of a deflector in the plane of the specimen, and the axes of the image, depend on them.
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import field_validator, model_validator

from ..core.documents import Strict
from ..core.numbers import Finite, Positive
from .scanning.calibration_json import beam_misfit, load_json, save_json

# How far from where it was measured a calibration holds.
FIELD_TOLERANCE = 0.1
ROTATION_TOLERANCE_DEG = 0.5

Pair = tuple[Finite, Finite]


class ShiftCalibration(Strict):
    """What the deflectors do.

    Attributes
    ----------
    unit : {"nm", "step"}
        What the deflectors are counted in: nanometres as the microscope names them (temscript), or
        its own steps (instamatic).
    matrix_nm : tuple
        Shift of the image in nm, rows (y, x), for one unit of the first and second deflector.
    covariance_nm2 : tuple
        Of the elements of `matrix_nm`, row by row, in nm^2.
    zero : tuple of float
        Values of the deflectors at which the image counts as not shifted.
    largest_nm : float
        Largest shift that was tried.
    field_nm, voltage_kv, scan_rotation_deg : float
        At which it was measured.
    date : datetime
        When, with its zone.
    """

    unit: Literal["nm", "step"]
    matrix_nm: tuple[Pair, Pair]
    covariance_nm2: tuple[
        tuple[Finite, Finite, Finite, Finite],
        tuple[Finite, Finite, Finite, Finite],
        tuple[Finite, Finite, Finite, Finite],
        tuple[Finite, Finite, Finite, Finite],
    ]
    zero: Pair = (0.0, 0.0)
    largest_nm: Positive
    field_nm: Positive
    voltage_kv: Positive
    scan_rotation_deg: Finite = 0.0
    date: datetime

    @field_validator("date")
    @classmethod
    def _with_zone(cls, date: datetime) -> datetime:
        if date.tzinfo is None:
            raise ValueError("names no time zone; write it as in 2026-11-27T10:00:00+01:00")
        return date

    @model_validator(mode="after")
    def _can_be_used(self) -> ShiftCalibration:
        matrix = np.array(self.matrix_nm)
        if not abs(np.linalg.det(matrix)) > 1e-3 * np.abs(matrix).max() ** 2:
            raise ValueError("matrix_nm moves the image along one line, or not at all")
        covariance = np.array(self.covariance_nm2)
        size = np.abs(covariance).max()
        if np.abs(covariance - covariance.T).max() > 1e-6 * size:
            raise ValueError("covariance_nm2 is not symmetric")
        if np.linalg.eigvalsh(covariance).min() < -1e-6 * size:
            raise ValueError("covariance_nm2 has a negative variance")
        return self

    def units_for(self, shift_nm: tuple[float, float]) -> tuple[float, float]:
        """Values of the deflectors that shift the image by (y, x) nm."""
        first, second = np.linalg.solve(np.array(self.matrix_nm), np.array(shift_nm))
        return self.zero[0] + float(first), self.zero[1] + float(second)

    def shift_nm(self, units: tuple[float, float]) -> tuple[float, float]:
        """Shift (y, x) of the image at values of the deflectors."""
        moved = np.array(units) - np.array(self.zero)
        y, x = np.array(self.matrix_nm) @ moved
        return float(y), float(x)

    def error_nm(self, shift_nm: tuple[float, float]) -> tuple[float, float]:
        """Standard deviation (y, x) of what a shift turns out to be, by the covariance."""
        moved = np.array(self.units_for(shift_nm)) - np.array(self.zero)
        covariance = np.array(self.covariance_nm2)
        y, x = (moved @ covariance[k : k + 2, k : k + 2] @ moved for k in (0, 2))
        return math.sqrt(max(0.0, float(y))), math.sqrt(max(0.0, float(x)))

    def misfit(
        self, unit: str, voltage_kv: float, field_nm: float, scan_rotation_deg: float = 0.0
    ) -> str | None:
        """Why it does not hold for a microscope as it is set; None where it does."""
        if unit != self.unit:
            return f"it counts the deflectors in {self.unit}, and this microscope has {unit}"
        why = beam_misfit(self.voltage_kv, self.field_nm, voltage_kv, field_nm, FIELD_TOLERANCE)
        if why is not None:
            return why
        turned_deg = (scan_rotation_deg - self.scan_rotation_deg + 180.0) % 360.0 - 180.0
        if abs(turned_deg) > ROTATION_TOLERANCE_DEG:
            return (
                f"it was measured with a scan rotation of {self.scan_rotation_deg:g} deg, and the "
                f"rotation is {scan_rotation_deg:g} deg"
            )
        return None


def load_shift_calibration(path: Path) -> ShiftCalibration:
    """Calibration from a JSON file.

    Raises
    ------
    BadInput
        If the file cannot be read or is not a calibration: file, place inside, what is wrong.
    """
    return load_json(path, ShiftCalibration, "pyrotome calibrate")


def save_shift_calibration(path: Path, calibration: ShiftCalibration) -> None:
    """Write a calibration as JSON; a file that is there is replaced in one step.

    Raises
    ------
    BadInput
        If it cannot be written.
    """
    save_json(path, calibration)
