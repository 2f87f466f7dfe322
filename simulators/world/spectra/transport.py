"""Diffusion out of a source into a half space, while the temperature changes.

Concentration at depth x and time t, for a source whose level c_s changes (Duhamel's integral in
the variable theta = int D dt, in which the equation has a constant coefficient):

    c(x, t) = sum_j dc_s(t_j) erfc(x / (2 sqrt(theta(t) - theta(t_j))))

With a constant source the front length is L = sqrt(2 theta), where c has fallen to 31.7 %. Law
``fick`` integrates D; law ``paper`` (Pham et al., Nano Lett. 2024, 24, 3702, equation i) takes
theta = D(T) (T - T0) / rate in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

from ....protocols.core.units import GAS_CONSTANT_J_PER_MOL_K, ZERO_CELSIUS_K

Array = NDArray[np.float64]
Law = Literal["fick", "paper"]


@dataclass(frozen=True)
class Transport:
    """Arrhenius law of a diffusion coefficient, and how the front follows from it.

    Attributes
    ----------
    activation_j_per_mol : float
        Q.
    d0_um2_per_s : float
        D at infinite temperature.
    law : {"fick", "paper"}
        See the module.
    """

    activation_j_per_mol: float = 87.2e3
    d0_um2_per_s: float = 7.1e4
    law: Law = "fick"

    def d_um2_per_s(self, temperature_c: Array) -> Array:
        """Diffusion coefficient at temperatures in deg C."""
        kelvin = np.asarray(temperature_c, float) + ZERO_CELSIUS_K
        exponent = -self.activation_j_per_mol / (GAS_CONSTANT_J_PER_MOL_K * kelvin)
        return self.d0_um2_per_s * np.exp(exponent)

    def theta_um2(self, time_s: Array, temperature_c: Array) -> Array:
        """Theta along a course of temperature, 0 at its beginning; shapes (n,)."""
        d = self.d_um2_per_s(temperature_c)
        if self.law == "paper":
            rate = np.gradient(temperature_c, time_s)
            rise = temperature_c - temperature_c[0]
            return d * np.maximum(rise, 0.0) / np.maximum(np.abs(rate), 1e-9)
        steps = 0.5 * (d[1:] + d[:-1]) * np.diff(time_s)
        return np.concatenate([[0.0], np.cumsum(steps)])


def source_level(kind: str, temperature_c: Array) -> Array:
    """Level of the source along a course of temperature: ``constant``, ``late`` or ``depleting``.

    ``late`` is switched on at 235 degC (within 10 K); ``depleting`` falls by 60 % around 345 degC.
    """
    temperature_c = np.asarray(temperature_c, float)
    if kind == "constant":
        return np.ones_like(temperature_c)
    if kind == "late":
        return 0.5 * (1.0 + np.tanh((temperature_c - 235.0) / 5.0))
    if kind == "depleting":
        return 1.0 - 0.6 * 0.5 * (1.0 + np.tanh((temperature_c - 345.0) / 25.0))
    raise ValueError(f"unknown source '{kind}': constant, late or depleting")


def concentration(
    depth_um: Array, time_s: float, course_s: Array, theta_um2: Array, level: Array
) -> Array:
    """Concentration at depths (negative: in the source) at a moment of a course.

    Parameters
    ----------
    depth_um : ndarray of shape (m,)
        From the interface.
    time_s : float
        The moment.
    course_s, theta_um2, level : ndarray of shape (n,)
        The course: times, theta and level of the source.

    Returns
    -------
    ndarray of shape (m,)
        In units of the source's highest level.
    """
    theta, now = np.interp(time_s, course_s, theta_um2), np.interp(time_s, course_s, level)
    found = np.where(depth_um < 0.0, now, 0.0)
    inside = depth_um >= 0.0
    before = course_s < time_s
    steps = np.diff(level[before], prepend=0.0)
    # Sources that did not change add nothing.
    when = np.flatnonzero(np.abs(steps) > 1e-9)
    left = np.maximum(theta - theta_um2[when], 1e-12)
    reach = depth_um[inside][:, None] / (2.0 * np.sqrt(left))[None, :]
    found[inside] = erfc(reach) @ steps[when]
    return found
