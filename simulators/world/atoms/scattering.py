"""How much an atom scatters into an annular dark-field detector."""

from __future__ import annotations

import math
from typing import Final

# Of the elements that are simulated here.
ATOMIC_NUMBERS: Final = {"C": 6, "O": 8, "Si": 14, "Zr": 40}
INNER_MRAD = 39.0
BOHR_RADIUS_A = 0.529177
ELECTRON_REST_KEV = 510.99895
_HC_KEV_A = 12.398420


def wavelength_a(voltage_kv: float) -> float:
    """Wavelength of the electrons, relativistic.

    Examples
    --------
    >>> round(wavelength_a(300.0), 5)
    0.01969
    """
    return _HC_KEV_A / math.sqrt(voltage_kv * (voltage_kv + 2 * ELECTRON_REST_KEV))


def cross_section_a2(
    symbol: str, voltage_kv: float = 300.0, inner_mrad: float = INNER_MRAD
) -> float:
    """Cross section of an atom for scattering beyond an angle.

    Elastic cross section after Langmore and Smith, Ultramicroscopy 46, 349 (1992), of which the
    part beyond an angle t is 1 / (1 + (t / t0)^2) with Lenz's angle t0 = lambda Z^(1/3) / (2 pi
    a_H) (Z. Naturforsch. 9a, 185 (1954)). Channelling is left out.

    Parameters
    ----------
    symbol : str
        Element, one of `ATOMIC_NUMBERS`.
    voltage_kv : float
        High tension.
    inner_mrad : float
        Inner angle of the detector.

    Returns
    -------
    float
        In square angstrom.

    Examples
    --------
    >>> f"{cross_section_a2('Zr'):.4f} {cross_section_a2('O'):.5f}"
    '0.0113 0.00043'
    """
    number = ATOMIC_NUMBERS[symbol]
    beta2 = 1 - (1 + voltage_kv / ELECTRON_REST_KEV) ** -2
    screening = 1 - 0.26 * number / (137 * math.sqrt(beta2))
    elastic_a2 = 1.4e-4 * number**1.5 / beta2 * screening
    lenz = wavelength_a(voltage_kv) * number ** (1 / 3) / (2 * math.pi * BOHR_RADIUS_A)
    return elastic_a2 / (1 + (inner_mrad * 1e-3 / lenz) ** 2)
