"""What a pixel is worth, measured on a crystal, and the file that a rig names for it.

It holds for the high tension and the field of view at which it was measured. The distortion is that
of the scan coils, in their own axes: it is turned for a scan that is rotated.
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from ...core.documents import Strict
from ...core.numbers import Finite, Positive
from .calibration_json import beam_misfit, load_json, save_json

# How far from where it was measured a calibration holds.
FIELD_TOLERANCE = 0.01
# A scan that is further off was not measured rightly.
MOST_OFF = 0.5

Pair = tuple[Finite, Finite]
Four = tuple[Finite, Finite, Finite, Finite]


class PixelCalibration(Strict):
    """What a pixel is worth.

    Attributes
    ----------
    crystal : str
        On which it was measured.
    matrix_nm : tuple
        Displacement of the probe in nm, rows (y, x), for one row and one column (columns) of a scan
        without rotation; symmetric.
    covariance_nm2 : tuple
        Of the elements of `matrix_nm`, row by row, in nm^2.
    pixel_nm, pixel_sd_nm : float
        Side of a square of the same area, and its standard deviation.
    nominal_pixel_nm : float
        What the microscope takes a pixel for.
    field_nm, voltage_kv : float
        At which it was measured; the field by the nominal pixel.
    scan_rotations_deg : tuple of float
        At which pictures were taken.
    frames : int
        Number of frames in them.
    doubts : tuple of str
        What should be known of it.
    date : datetime
        When, with its zone.
    """

    crystal: Literal["silicon [110]"] = "silicon [110]"
    matrix_nm: tuple[Pair, Pair]
    covariance_nm2: tuple[Four, Four, Four, Four]
    pixel_nm: Positive
    pixel_sd_nm: Annotated[float, Field(ge=0)]
    nominal_pixel_nm: Positive
    field_nm: Positive
    voltage_kv: Positive
    scan_rotations_deg: tuple[Finite, ...]
    frames: Annotated[int, Field(ge=1)]
    doubts: tuple[str, ...] = ()
    date: datetime

    @field_validator("date")
    @classmethod
    def _with_zone(cls, date: datetime) -> datetime:
        if date.tzinfo is None:
            raise ValueError("names no time zone; write it as in 2026-11-27T10:00:00+01:00")
        return date

    @model_validator(mode="after")
    def _can_be_used(self) -> PixelCalibration:
        matrix = np.array(self.matrix_nm) / self.nominal_pixel_nm
        if np.abs(matrix - np.eye(2)).max() > MOST_OFF:
            raise ValueError("matrix_nm is not that of a scan of nominal_pixel_nm")
        covariance = np.array(self.covariance_nm2)
        size = max(float(np.abs(covariance).max()), 1e-300)
        if np.abs(covariance - covariance.T).max() > 1e-6 * size:
            raise ValueError("covariance_nm2 is not symmetric")
        if np.linalg.eigvalsh(covariance).min() < -1e-6 * size:
            raise ValueError("covariance_nm2 has a negative variance")
        return self

    def matrix_at(self, scan_rotation_deg: float) -> NDArray[np.float64]:
        """Displacement (y, x) in nm for one row and one column of a scan that is rotated."""
        angle = math.radians(scan_rotation_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        turn = np.array([[cos, sin], [-sin, cos]])
        return np.asarray(turn.T @ np.array(self.matrix_nm) @ turn, np.float64)

    def misfit(self, voltage_kv: float, field_nm: float) -> str | None:
        """Why it does not hold for a microscope as it is set; None where it does."""
        return beam_misfit(self.voltage_kv, self.field_nm, voltage_kv, field_nm, FIELD_TOLERANCE)

    def text(self) -> list[str]:
        """For people: pixel size and matrix with their uncertainties."""
        sd = np.sqrt(np.maximum(np.diag(self.covariance_nm2), 0.0)).reshape(2, 2)
        rows = [
            f"{name}: {10 * row[0]:.5f} \u00b1 {10 * spread[0]:.5f}   "
            f"{10 * row[1]:+.5f} \u00b1 {10 * spread[1]:.5f} \u00c5 for a row and a column"
            for name, row, spread in zip("yx", self.matrix_nm, sd, strict=True)
        ]
        off = 100 * (self.pixel_nm / self.nominal_pixel_nm - 1)
        return [
            f"a pixel is {10 * self.pixel_nm:.5f} \u00b1 {10 * self.pixel_sd_nm:.5f} \u00c5 "
            f"({off:+.2f} % of the {10 * self.nominal_pixel_nm:.4g} \u00c5 that are told)",
            *rows,
        ]


def load_pixel_calibration(path: Path) -> PixelCalibration:
    """Calibration from a JSON file.

    Raises
    ------
    BadInput
        If the file cannot be read or is not a calibration: file, place inside, what is wrong.
    """
    return load_json(path, PixelCalibration, "pyrotome calibrate-pixel")


def save_pixel_calibration(path: Path, calibration: PixelCalibration) -> None:
    """Write a calibration as JSON; a file that is there is replaced in one step.

    Raises
    ------
    BadInput
        If it cannot be written.
    """
    save_json(path, calibration)
