"""Settings of the fit by likelihood, and its result."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..alignment.resampling import nearest_quarters_deg, quarter_turns, turned_shifts
from .model import AtomModel, Floats64


@dataclass(frozen=True)
class LikelihoodSettings:
    """Settings of the fit; the defaults are those of a metal or semiconductor at 0.2 to 0.4 A/px.

    Attributes
    ----------
    width_a, tail, tail_width_a : float
        Where width and tail of a peak start, in angstrom; they are fitted.
    nearest_a : float
        Atoms that are nearer repel, in angstrom: a little less than the shortest bond.
    softness_a : float
        A bond that is too short by so much costs half a unit of log likelihood.
    height_spread : float
        Standard deviation of the heights over their median at the end; three times as much during
        the search.
    shift_sd_a, tilt_sd_deg, rotation_sd_deg, gain_sd : float
        Standard deviations of the alignment about what is told, and of the gains about 1. 0 holds
        a parameter.
    smoothing_a : float
        Smoothing of the volume in which the search starts.
    rounds : int
        Most rounds of adding and removing.
    final_steps : int
        Most Newton steps after them.
    bond_a : float, optional
        Length of the bond between neighbours, in angstrom, with which the pixel size is checked.
    """

    width_a: float = 0.45
    tail: float = 0.2
    tail_width_a: float = 1.5
    nearest_a: float = 2.0
    softness_a: float = 0.25
    height_spread: float = 0.05
    shift_sd_a: float = 0.1
    tilt_sd_deg: float = 0.1
    rotation_sd_deg: float = 0.3
    gain_sd: float = 0.02
    smoothing_a: float = 0.3
    rounds: int = 6
    final_steps: int = 8
    bond_a: float | None = None


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
