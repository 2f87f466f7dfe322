"""Settings of the fit by likelihood."""

from __future__ import annotations

from dataclasses import dataclass


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
