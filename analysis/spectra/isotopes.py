"""What a component should look like: spectra of ions by the natural abundances of isotopes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from molmass import Formula, FormulaError
from numpy.typing import NDArray

_HALF_MASS = 0.5


def isotope_spectrum(formula: str, mass_axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spectrum of an element or a molecule on an axis of mass over charge.

    Parameters
    ----------
    formula : str
        Such as ``B``, ``NaFe`` or ``FeHBO2``.
    mass_axis : ndarray of shape (channels,)
        Middle of each channel, in ascending order. An isotope counts for the nearest channel, if
        that is no further away than half a mass: a list of peaks has gaps.

    Returns
    -------
    ndarray of shape (channels,)
        Sum 1; all zero where no isotope is on the axis.

    Raises
    ------
    ValueError
        If the formula cannot be read.

    Examples
    --------
    >>> axis = np.arange(1.0, 201.0)
    >>> [round(float(value), 3) for value in isotope_spectrum("B", axis)[9:11]]
    [0.199, 0.801]
    """
    try:
        entries = list(Formula(formula).spectrum().values())
    except FormulaError as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"'{formula}' is no chemical formula: {why}") from None
    spectrum = np.zeros(len(mass_axis))
    for entry in entries:
        nearest = int(np.argmin(np.abs(mass_axis - entry.massnumber)))
        if abs(mass_axis[nearest] - entry.massnumber) <= _HALF_MASS:
            spectrum[nearest] += entry.fraction
    total = spectrum.sum()
    return spectrum / total if total > 0 else spectrum


def prior_spectra(
    formulas: Sequence[str], mass_axis: NDArray[np.float64], extra: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spectra to begin with, and how firmly they are believed.

    Parameters
    ----------
    formulas : sequence of str
        Components that are told.
    mass_axis : ndarray of shape (channels,)
        As for `isotope_spectrum`.
    extra : int
        Further components, of which nothing is known; they begin on the channels that the others
        leave.

    Returns
    -------
    spectra : ndarray of shape (channels, components)
        Each sums to 1.
    believed : ndarray of shape (components,)
        1 for those with a formula, 0 for the others.
    """
    told = [isotope_spectrum(formula, mass_axis) for formula in formulas]
    for formula, spectrum in zip(formulas, told, strict=True):
        if spectrum.sum() == 0:
            raise ValueError(f"no isotope of '{formula}' is on the axis of the spectrum")
    taken = np.sum(told, axis=0) > 0.01 if told else np.zeros(len(mass_axis), bool)
    left = np.flatnonzero(~taken)
    columns = list(told)
    for number in range(extra):
        spectrum = np.full(len(mass_axis), 1e-6)
        # Alternate channels, so that the extra components can part.
        spectrum[left[number::extra]] = 1.0
        columns.append(spectrum / spectrum.sum())
    believed = np.array([1.0] * len(told) + [0.0] * extra)
    return np.stack(columns, axis=1), believed
