"""Solve for what a pixel is worth in a process of its own.

``python -m pyrotome.analysis.lattice.process`` reads a `PixelSolverConfig`, answers with one line,
and ends.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ...protocols.config.scanning.pixel_calibration import PixelCalibration
from ...protocols.messages.parent_pipe import announce, read_config
from ...protocols.messages.process import PixelSolverConfig
from .averaging import average_frames
from .coil_map import Rotated, ScanMap, rotated_map, scan_map
from .silicon import NoLattice

_ANGSTROM = 10.0  # in a nanometre
# Half of the shortest vector of the lattice of silicon along [110], less a little.
REACH_A = 1.5


def calibration_of(
    found: ScanMap,
    *,
    nominal_nm: float,
    field_nm: float,
    voltage_kv: float,
    rotations_deg: tuple[float, ...],
    frames: int,
) -> PixelCalibration:
    """What is stored of a scan map, with what it holds for.

    Parameters
    ----------
    found : ScanMap
        The map.
    nominal_nm, field_nm : float
        Pixel size and width of the field as the microscope tells them.
    voltage_kv : float
        High tension.
    rotations_deg : tuple of float
        Scan rotations of the pictures.
    frames : int
        Frames in them.
    """
    per_nm = 1.0 / _ANGSTROM
    return PixelCalibration.model_validate(
        {
            "matrix_nm": (found.matrix_a * per_nm).tolist(),
            "covariance_nm2": (found.covariance_a2 * per_nm**2).tolist(),
            "pixel_nm": found.pixel_a * per_nm,
            "pixel_sd_nm": found.pixel_sd_a * per_nm,
            "nominal_pixel_nm": nominal_nm,
            "field_nm": field_nm,
            "voltage_kv": voltage_kv,
            "scan_rotations_deg": rotations_deg,
            "frames": frames,
            "doubts": found.doubts,
            "date": datetime.now(UTC).isoformat(),
        }
    )


def solve(config: PixelSolverConfig) -> PixelCalibration:
    """The calibration of fast frames at several scan rotations.

    Raises
    ------
    NoLattice
        If frames of a rotation do not show silicon along [110].
    """
    pixel_a = _ANGSTROM * config.pixel_nm
    counts = np.frombuffer(base64.b64decode(config.counts), "<u2").reshape(-1, *config.shape)
    pixel_s = (config.dwell_s * config.columns_scanned, config.dwell_s)
    pictures: list[Rotated] = []
    used = first = 0
    for rotation_deg, times_s in zip(config.rotations_deg, config.times_s, strict=True):
        frames = counts[first : first + len(times_s)]
        first += len(times_s)
        averaged = average_frames(list(frames), times_s, REACH_A / pixel_a)
        used += averaged.used
        drift = (averaged.drift_px_per_s, averaged.drift_sd_px_per_s)
        pictures.append(rotated_map(averaged.picture, pixel_a, rotation_deg, drift, pixel_s))
    return calibration_of(
        scan_map(pictures), nominal_nm=config.pixel_nm, field_nm=config.field_nm,
        voltage_kv=config.voltage_kv, rotations_deg=config.rotations_deg, frames=used,
    )  # fmt: skip


def answer(config: PixelSolverConfig) -> dict[str, Any]:
    """What the process answers."""
    try:
        return {"calibration": solve(config).model_dump_json()}
    except (NoLattice, ValueError) as error:
        return {"problem": str(error)}


def main() -> None:
    """Read the configuration, answer, and end."""
    announce(**answer(read_config(PixelSolverConfig)))


if __name__ == "__main__":
    main()
