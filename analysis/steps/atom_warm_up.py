"""Compile what the fit of atoms needs, on four atoms, before the first frame waits for it."""

from __future__ import annotations

import numpy as np

_SIDE, _PIXEL_A = 40, 0.3
_ATOMS_A = np.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 0, 3]])


def warm_up_atoms(method: str) -> None:
    """Find four atoms by a method of the step ``trace``."""
    from ..atoms import LikelihoodSettings, fit_atoms, trace_volume

    if method == "paper":
        axis = np.arange(16) - 7.5
        y, z, x = np.meshgrid(axis, axis, axis, indexing="ij")
        trace_volume(np.exp(-(x**2 + y**2 + z**2) / 8), _PIXEL_A)
        return
    rng = np.random.default_rng(0)
    pixel_a = (np.arange(_SIDE) - (_SIDE - 1) / 2) * _PIXEL_A
    tilt_deg = np.arange(0.0, 180.0, 15.0)
    views: list[np.ndarray] = []
    for tilt in np.deg2rad(tilt_deg):
        across = _ATOMS_A[:, 0] * np.cos(tilt) + _ATOMS_A[:, 2] * np.sin(tilt)
        rows = np.exp(-0.5 * ((pixel_a - _ATOMS_A[:, 1:2]) / 0.5) ** 2)
        columns = np.exp(-0.5 * ((pixel_a - across[:, None]) / 0.5) ** 2)
        views.append(rng.poisson(1 + 20 * rows.T @ columns))
    settings = LikelihoodSettings(rounds=1, final_steps=2)
    fit_atoms(np.stack(views), tilt_deg, _PIXEL_A, settings=settings)
