"""Tilt series of single atoms: Gaussian peaks with the tail of the probe, Poisson counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats64 = NDArray[np.float64]
_REACH = 5.0


@dataclass(frozen=True)
class Imaging:
    """How the atoms are imaged.

    Attributes
    ----------
    pixel_a : float
        Side of a pixel in angstrom.
    shape : tuple of int
        Rows and columns of a view; the tilt axis runs along the rows' direction (y).
    dose_e_per_a2 : float
        Fluence of the whole series.
    counts_per_electron_a2 : float
        Counts of an atom in all views together, per electron and square angstrom of fluence;
        0.107 is that of silicon in the multislice data of Yang et al.
    probe_a, thermal_a : float
        Standard deviations of the probe and of the thermal motion along one axis.
    tail, tail_a : float
        Counts in the wide part of a peak over those in the narrow one, and its width.
    pedestal : float
        Counts of a pixel without atoms.
    axis_offset_px, rotation_deg : float
        The tilt axis, as the alignment has it.
    shift_sd_px, tilt_sd_deg, gain_sd : float
        Random errors of each view.
    """

    pixel_a: float = 0.347
    shape: tuple[int, int] = (290, 290)
    dose_e_per_a2: float = 8.0e3
    counts_per_electron_a2: float = 0.107
    probe_a: float = 0.42
    thermal_a: float = 0.08
    tail: float = 0.2
    tail_a: float = 1.5
    pedestal: float = 1.0
    axis_offset_px: float = 0.0
    rotation_deg: float = 0.0
    shift_sd_px: float = 0.0
    tilt_sd_deg: float = 0.0
    gain_sd: float = 0.0


@dataclass(frozen=True)
class AtomSeries:
    """A simulated series and its truth.

    Attributes
    ----------
    counts : ndarray
        Uint16, shape (views, rows, columns).
    tilt_deg : ndarray
        Angles as told, shape (views,).
    true_tilt_deg : ndarray
        Angles as they were.
    shifts_px : ndarray
        Shape (views, 2): true shifts along rows and columns, the offset of the axis apart.
    """

    counts: NDArray[np.uint16]
    tilt_deg: Floats64
    true_tilt_deg: Floats64
    shifts_px: Floats64
    imaging: Imaging = field(default_factory=Imaging)


def simulated_series(
    positions_a: Floats64, tilt_deg: Floats64, imaging: Imaging, rng: np.random.Generator
) -> AtomSeries:
    """Simulate a tilt series of equal atoms.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3): x, y, z in angstrom from the centre of the volume.
    tilt_deg : ndarray
        Angles as told, shape (views,).
    imaging : Imaging
        How the atoms are imaged.
    rng : Generator
        Source of random numbers.

    Returns
    -------
    AtomSeries
        Counts and truth.

    Examples
    --------
    >>> import numpy as np
    >>> imaging = Imaging(shape=(32, 32), dose_e_per_a2=1e6)
    >>> series = simulated_series(np.zeros((1, 3)), np.array([0.0, 90]), imaging,
    ...     np.random.default_rng(0))
    >>> [int(view.argmax()) // 32 in (15, 16) for view in series.counts]
    [True, True]
    """
    count = len(tilt_deg)
    shifts = rng.normal(0, 1, (count, 2)) * imaging.shift_sd_px
    true = np.asarray(tilt_deg, np.float64) + rng.normal(0, 1, count) * imaging.tilt_sd_deg
    gains = np.exp(rng.normal(0, 1, count) * imaging.gain_sd)
    views = np.empty((count, *imaging.shape), np.uint16)
    for k in range(count):
        mean = gains[k] * _view(positions_a, true[k], shifts[k], imaging, count)
        views[k] = rng.poisson(mean + imaging.pedestal)
    return AtomSeries(views, np.asarray(tilt_deg, np.float64), true, shifts, imaging)


def _view(
    positions_a: Floats64, tilt_deg: float, shift: Floats64, imaging: Imaging, count: int
) -> Floats64:
    """Expected counts of the atoms in one view."""
    tilt, turn = math.radians(tilt_deg), math.radians(imaging.rotation_deg)
    x, y, z = positions_a.T / imaging.pixel_a
    across = x * math.cos(tilt) + z * math.sin(tilt) + imaging.axis_offset_px
    rows = y * math.cos(turn) + across * math.sin(turn) + shift[0] + (imaging.shape[0] - 1) / 2
    columns = across * math.cos(turn) - y * math.sin(turn) + shift[1] + (imaging.shape[1] - 1) / 2
    # Counts of an atom in one view.
    height = imaging.dose_e_per_a2 / count * imaging.counts_per_electron_a2 / (1 + imaging.tail)
    width = math.hypot(imaging.probe_a, imaging.thermal_a) / imaging.pixel_a
    reach = math.ceil(_REACH * width)
    steps = np.arange(-reach, reach + 1)
    at_r = np.rint(rows)[:, None].astype(np.intp) + steps
    at_c = np.rint(columns)[:, None].astype(np.intp) + steps
    norm = height / (2 * math.pi * width**2)
    part_r = norm * np.exp(-0.5 * ((at_r - rows[:, None]) / width) ** 2)
    part_c = np.exp(-0.5 * ((at_c - columns[:, None]) / width) ** 2)
    part_r[(at_r < 0) | (at_r >= imaging.shape[0])] = 0
    part_c[(at_c < 0) | (at_c >= imaging.shape[1])] = 0
    places = (
        np.clip(at_r, 0, imaging.shape[0] - 1)[:, :, None] * imaging.shape[1]
        + np.clip(at_c, 0, imaging.shape[1] - 1)[:, None, :]
    )
    values = part_r[:, :, None] * part_c[:, None, :]
    size = imaging.shape[0] * imaging.shape[1]
    peaks = np.bincount(places.ravel(), values.ravel(), size).reshape(imaging.shape)
    tails = gaussian_filter(peaks, imaging.tail_a / imaging.pixel_a, mode="constant")
    return peaks + imaging.tail * tails
