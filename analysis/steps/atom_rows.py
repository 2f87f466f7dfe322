"""Fitted or traced atoms as the rows of the tables in a run file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...protocols.steps.tables import ATOM_COLUMNS, ATOM_VIEW_COLUMNS
from ..atoms import AtomFit, Trace

Floats64 = NDArray[np.float64]

_NM = 0.1  # of an angstrom
# Upper half of a covariance, in the order of the columns.
_HALF = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def atom_rows(fit: AtomFit) -> Floats64:
    """Rows of fitted atoms, shape (atoms, columns); lengths in nm about the mean of all atoms.

    Parameters
    ----------
    fit : AtomFit
        The atoms.

    Returns
    -------
    ndarray
        The columns are `ATOM_COLUMNS`.
    """
    covariance = fit.covariance_a2 * _NM**2
    sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    half = np.stack([covariance[:, a, b] for a, b in _HALF], axis=1)
    return np.column_stack(
        [
            np.zeros(len(sigma)),
            fit.positions_a * _NM,
            sigma,
            np.sqrt((sigma**2).sum(axis=1)),
            fit.heights,
            fit.height_sd,
            fit.gain,
            fit.probability,
            fit.misfit,
            half,
        ]
    )


def traced_rows(found: Trace, voxel_nm: float) -> Floats64:
    """Rows of atoms that were traced in a volume: places and peaks; errors are NaN.

    Parameters
    ----------
    found : Trace
        The atoms.
    voxel_nm : float
        Side of a voxel.

    Returns
    -------
    ndarray
        The columns are `ATOM_COLUMNS`.
    """
    rows = np.full((len(found.intensity), len(ATOM_COLUMNS)), np.nan)
    rows[:, 0] = 0
    if len(rows):
        rows[:, 1:4] = (found.positions - found.positions.mean(axis=0)) * voxel_nm
    rows[:, ATOM_COLUMNS.index("peak_counts")] = found.intensity
    return rows


def view_rows(fit: AtomFit, view: NDArray[np.intp]) -> Floats64:
    """Rows of the alignment that was fitted with the atoms, shape (images, columns).

    Parameters
    ----------
    fit : AtomFit
        The result; its shifts are in pixels of the images that were fitted.
    view : ndarray
        Shape (images,): index of each image's view among the angles of the series.

    Returns
    -------
    ndarray
        The columns are `ATOM_VIEW_COLUMNS`.
    """
    columns = [
        view, fit.tilt_deg, fit.tilt_sd_deg, *fit.shifts_px.T, *fit.shift_sd_px.T,
        fit.background, fit.log_gain, fit.chi_squared,
    ]  # fmt: skip
    assert len(columns) == len(ATOM_VIEW_COLUMNS)
    return np.column_stack(columns).astype(np.float64)
