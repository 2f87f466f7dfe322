"""The result of a fit by likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..alignment.resampling import nearest_quarters_deg, quarter_turns, turned_shifts
from .refinement.model import AtomModel, Floats64


@dataclass(frozen=True)
class AtomFit:
    """Atoms with their errors, and the alignment that was fitted with them.

    Attributes
    ----------
    positions_a : ndarray
        Shape (atoms, 3): x, y, z in angstrom about the mean of all atoms. y runs along the tilt
        axis, x across it; z is the direction of the beam at tilt 0.
    origin_a : ndarray
        Shape (3,): their mean from the centre of the volume, in angstrom.
    covariance_a2 : ndarray
        Shape (atoms, 3, 3): covariance of a position, in square angstrom.
    heights, height_sd : ndarray
        Shape (atoms,): counts of an atom in a view.
    gain : ndarray
        Shape (atoms,): by how much the atom raises the log likelihood.
    probability : ndarray
        Shape (atoms,): that the atom is there.
    misfit : ndarray
        Shape (atoms,): squared residuals near the atom over what is expected; 1 in a right model.
    shifts_px, shift_sd_px : ndarray
        Shape (views, 2), along rows and columns of the images as recorded.
    tilt_deg, tilt_sd_deg : ndarray
        Shape (views,).
    axis_offset_px, axis_offset_sd_px, rotation_deg, rotation_sd_deg : float
        The tilt axis, as :class:`pyrotome.analysis.alignment.TiltAxis` has it.
    background, log_gain : ndarray
        Shape (views,).
    width_a, tail, tail_width_a : float
        Shape of a peak.
    chi_squared : ndarray
        Shape (views,): mean squared residual of a pixel over its variance.
    doubts : tuple of str
        What seems to be wrong with the series, and what it does to the result.
    """

    positions_a: Floats64
    origin_a: Floats64
    covariance_a2: Floats64
    heights: Floats64
    height_sd: Floats64
    gain: Floats64
    probability: Floats64
    misfit: Floats64
    shifts_px: Floats64
    shift_sd_px: Floats64
    tilt_deg: Floats64
    tilt_sd_deg: Floats64
    axis_offset_px: float
    axis_offset_sd_px: float
    rotation_deg: float
    rotation_sd_deg: float
    background: Floats64
    log_gain: Floats64
    width_a: float
    tail: float
    tail_width_a: float
    chi_squared: Floats64
    doubts: tuple[str, ...] = ()

    @property
    def sigma_a(self) -> Floats64:
        """Standard deviations of x, y, z in angstrom, shape (atoms, 3)."""
        return np.sqrt(np.diagonal(self.covariance_a2, axis1=1, axis2=2))


def model_of(fit: AtomFit, pixel_a: float) -> AtomModel:
    """The model of a result, in pixels of images whose axis was turned upright by quarters.

    Parameters
    ----------
    fit : AtomFit
        The result.
    pixel_a : float
        Side of a pixel in angstrom.

    Returns
    -------
    AtomModel
        The model.
    """
    rotation = math.radians(fit.rotation_deg - nearest_quarters_deg(fit.rotation_deg))
    shifts = turned_shifts(fit.shifts_px, -quarter_turns(fit.rotation_deg))
    shifts = shifts + fit.axis_offset_px * np.array([math.sin(rotation), math.cos(rotation)])
    return AtomModel(
        (fit.positions_a + fit.origin_a) / pixel_a, fit.heights, shifts, np.deg2rad(fit.tilt_deg),
        rotation, fit.background, fit.log_gain, fit.width_a / pixel_a, fit.tail,
        fit.tail_width_a / pixel_a,
    )  # fmt: skip
