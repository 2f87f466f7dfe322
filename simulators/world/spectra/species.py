"""Mass spectra of species on an axis of whole masses, from tables of isotopes.

Abundances are those of molmass, which has them from the IUPAC tables.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from molmass import Formula
from numpy.typing import NDArray

CHANNELS = 200


@cache
def _masses(formula: str) -> tuple[tuple[int, float], ...]:
    entries = Formula(formula).spectrum().values()
    return tuple((int(entry.massnumber), float(entry.fraction)) for entry in entries)


def mass_spectrum(shares: dict[str, float], channels: int = CHANNELS) -> NDArray[np.float64]:
    """Spectrum of a species that arrives as several ions.

    Parameters
    ----------
    shares : dict of str to float
        Formula of each ion, and its share of the counts.
    channels : int
        Channel k holds the mass number k + 1.

    Returns
    -------
    ndarray of shape (channels,)
        Sum 1.

    Examples
    --------
    >>> spectrum = mass_spectrum({"B": 1.0})
    >>> [round(float(value), 2) for value in spectrum[9:11]]
    [0.2, 0.8]
    """
    spectrum = np.zeros(channels)
    for formula, share in shares.items():
        for mass, fraction in _masses(formula):
            if 1 <= mass <= channels:
                spectrum[mass - 1] += share * fraction
    return spectrum / spectrum.sum()


# Ions of each species and their shares (mass lines of Pham et al., Nano Lett. 2024, 24, 3702).
IONS: dict[str, dict[str, float]] = {
    "B": {"B": 0.90, "BOH4": 0.05, "B5O4": 0.03, "B5O5H3": 0.02},
    "Na": {"Na": 1.0},
    "Cr": {"Cr": 0.97, "CrO": 0.03},
    "Fe": {"Fe": 0.97, "FeO": 0.03},
    "Mn": {"Mn": 1.0},
    "Li": {"Li": 1.0},
    "NaFe": {"NaFe": 1.0},
    "NaCr": {"NaCr": 1.0},
    "FeHBO2": {"FeHBO2": 1.0},
}
