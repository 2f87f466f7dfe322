"""Method `likelihood`: all atoms and all views fitted at once to the recorded counts.

Gaussian atoms fitted to projections are published (arXiv 2512.15034). Here the counts are taken as
recorded, alignment and atoms are refined together, and atoms are added and removed by likelihood
ratio instead of by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..alignment.resampling import TiltAxis, nearest_quarters_deg, quarter_turns, turned_shifts
from ..core.arrays import checked_series
from ..core.border import border_level
from ..core.progress import run_to_end
from .atom_fit import AtomFit, model_of
from .doubts import doubts_of, scale_doubt
from .refinement.common_motion import common_motion, normalised
from .refinement.model import AtomModel, Floats64, Views, make_views, margin_for
from .refinement.newton import Fitted, fitted, typical_height
from .refinement.priors import Priors, tilt_groups
from .refinement.settings import LikelihoodSettings
from .refinement.uncertainty import Errors, errors_of, position_bound
from .search.rounds import begun, finished, search_rules, searched
from .search.shifts import ShiftsStart, shift_starts
from .search.start import smoothed_peaks, volume_of


def fit_atoms(
    counts: NDArray[Any],
    tilt_deg: NDArray[Any],
    pixel_a: float,
    *,
    axis: TiltAxis | None = None,
    shifts_px: NDArray[Any] | None = None,
    known: NDArray[np.bool_] | None = None,
    start_a: NDArray[Any] | None = None,
    settings: LikelihoodSettings | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> AtomFit:
    """Fit atoms to the counts of a tilt series.

    Parameters
    ----------
    counts : ndarray
        Shape (views, rows, columns): counts as recorded; not denoised, not interpolated.
    tilt_deg : ndarray
        Angles in degrees, shape (views,).
    pixel_a : float
        Side of a pixel in angstrom.
    axis : TiltAxis, optional
        Tilt axis as known; by default upright through the centre. Offset and rotation are refined.
    shifts_px : ndarray, optional
        Shape (views, 2): shifts as known, along rows and columns; they are refined.
    known : ndarray, optional
        Bool, shape of `counts` or (1, rows, columns): pixels that were measured.
    start_a : ndarray, optional
        Shape (atoms, 3): atoms to start from, in angstrom from the centre of the volume; by
        default the peaks of a volume by RESIRE.
    settings : LikelihoodSettings, optional
        Settings of the fit.
    seed : int
        Seed of the random numbers with which errors are estimated; the same seed gives the same
        result.
    progress : callable, optional
        Called with the finished fraction.

    Returns
    -------
    AtomFit
        Atoms, errors, alignment.

    Raises
    ------
    ValueError
        If counts and angles do not belong together, a count is negative or NaN, or no atom is
        found.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> tilt_deg = np.arange(0.0, 180.0, 12.0)
    >>> atoms = np.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 0, 3]])
    >>> pixel = np.arange(48) - 23.5
    >>> views = []
    >>> for tilt in np.deg2rad(tilt_deg):
    ...     x = atoms[:, 0] * np.cos(tilt) + atoms[:, 2] * np.sin(tilt)
    ...     rows = np.exp(-0.5 * ((pixel * 0.3 - atoms[:, 1:2]) / 0.5) ** 2)
    ...     columns = np.exp(-0.5 * ((pixel * 0.3 - x[:, None]) / 0.5) ** 2)
    ...     views.append(rng.poisson(1 + 20 * rows.T @ columns))
    >>> fit = fit_atoms(np.array(views), tilt_deg, 0.3)
    >>> len(fit.positions_a), bool(fit.sigma_a.max() < 0.1)
    (4, True)
    """
    steps = iter_fit_atoms(
        counts, tilt_deg, pixel_a, axis=axis, shifts_px=shifts_px, known=known, start_a=start_a,
        settings=settings, seed=seed,
    )  # fmt: skip
    return run_to_end(steps, progress)


def iter_fit_atoms(
    counts: NDArray[Any],
    tilt_deg: NDArray[Any],
    pixel_a: float,
    *,
    axis: TiltAxis | None = None,
    shifts_px: NDArray[Any] | None = None,
    known: NDArray[np.bool_] | None = None,
    start_a: NDArray[Any] | None = None,
    settings: LikelihoodSettings | None = None,
    seed: int = 0,
) -> Generator[float, None, AtomFit]:
    """Fit atoms as :func:`fit_atoms` does, and yield the finished fraction in between."""
    counts, tilts = checked_series(counts, tilt_deg)
    if counts.min() < 0:
        raise ValueError("counts are negative; give the counts as recorded, no background removed")
    if not pixel_a > 0:
        raise ValueError(f"a pixel size of {pixel_a:g} A; give the side of a pixel in angstrom")
    settings = settings or LikelihoodSettings()
    axis = axis or TiltAxis()
    shifts = np.zeros((len(counts), 2)) if shifts_px is None else np.array(shifts_px, np.float64)
    quarters = quarter_turns(axis.rotation_deg)
    turned = np.ascontiguousarray(np.rot90(counts, quarters, axes=(1, 2)))
    seen = None if known is None else np.rot90(known, quarters, axes=(1, 2))
    shifts = turned_shifts(shifts, -quarters)
    rotation = math.radians(axis.rotation_deg - nearest_quarters_deg(axis.rotation_deg))
    shifts += axis.offset_px * np.array([math.sin(rotation), math.cos(rotation)])
    told = ShiftsStart(shifts, np.full(shifts.shape, settings.shift_sd_a / pixel_a))
    now, views, loose = _begin(turned, tilts, pixel_a, told, rotation, seen, start_a, settings)
    yield 0.1
    now = yield from searched(views, now, loose, search_rules(pixel_a), pixel_a, settings)
    tight = replace(loose, height_spread=settings.height_spread)
    now = yield from finished(views, now, tight, search_rules(pixel_a), pixel_a, settings)
    now = fitted(views, normalised(now.model), tight, now.typical)
    errors = errors_of(views, now, tight, seed)
    yield 0.95
    doubts = doubts_of(
        views, now.model, tilts, settings.tilt_sd_deg, errors.misfit, settings.height_spread
    )
    result = _result(views, now, errors, pixel_a, quarters, axis)
    if settings.bond_a is not None:
        doubts += scale_doubt(result.positions_a, settings.bond_a)
    return replace(result, doubts=tuple(doubts))


def error_bound_a(
    counts: NDArray[Any],
    pixel_a: float,
    fit: AtomFit,
    positions_a: NDArray[Any],
    settings: LikelihoodSettings | None = None,
) -> float:
    """Error that no fit without bias can fall below, were these the true atoms (Cramer and Rao).

    Parameters
    ----------
    counts : ndarray
        Shape (views, rows, columns), as recorded.
    pixel_a : float
        Side of a pixel in angstrom.
    fit : AtomFit
        Gives alignment, shape of the peaks and typical height.
    positions_a : ndarray
        Shape (atoms, 3): the true atoms, about their mean, in angstrom.
    settings : LikelihoodSettings, optional
        What is known of alignment and heights.

    Returns
    -------
    float
        Root of the summed variances of x, y and z in angstrom, mean over the atoms.
    """
    settings = settings or LikelihoodSettings()
    model = model_of(fit, pixel_a)
    typical = typical_height(model)
    places = (np.asarray(positions_a, np.float64) + fit.origin_a) / pixel_a
    model = model.with_atoms(places, np.full(len(places), typical))
    turned = np.ascontiguousarray(np.rot90(counts, quarter_turns(fit.rotation_deg), axes=(1, 2)))
    views = make_views(turned, margin_for(model.width))
    # Neighbours repel in the fit; that is no information of the counts.
    known = ShiftsStart(model.shifts, np.full(model.shifts.shape, settings.shift_sd_a / pixel_a))
    priors = _priors(model, pixel_a, known, settings, settings.height_spread)
    priors = replace(priors, nearest=0.0)
    return pixel_a * position_bound(views, fitted(views, model, priors, typical), priors)


def _start(
    counts: NDArray[Any],
    tilts: Floats64,
    pixel_a: float,
    shifts: Floats64,
    rotation: float,
    known: NDArray[np.bool_] | None,
    start_a: NDArray[Any] | None,
    settings: LikelihoodSettings,
) -> AtomModel:
    """The first model: atoms from a volume unless they are given, heights from the counts."""
    background = border_level(counts, known)
    if start_a is None:
        volume = volume_of(counts, background, tilts, shifts, math.degrees(rotation))
        positions = smoothed_peaks(
            volume, settings.smoothing_a / pixel_a, 0.8 * settings.nearest_a / pixel_a
        )
    else:
        positions = np.array(start_a, np.float64) / pixel_a
    if not len(positions):
        raise ValueError("no atom stands out of the volume; are angles and tilt axis right?")
    above = counts.sum(axis=(1, 2)) - background * counts[0].size
    height = max(float(above.mean()) / len(positions) / (1 + settings.tail), 1e-3)
    return AtomModel(
        positions, np.full(len(positions), height), shifts.copy(), np.deg2rad(tilts), rotation,
        background, np.zeros(len(counts)), settings.width_a / pixel_a, settings.tail,
        settings.tail_width_a / pixel_a,
    )  # fmt: skip


def _begin(
    counts: NDArray[Any],
    tilts: Floats64,
    pixel_a: float,
    told: ShiftsStart,
    rotation: float,
    known: NDArray[np.bool_] | None,
    start_a: NDArray[Any] | None,
    settings: LikelihoodSettings,
) -> tuple[Fitted, Views, Priors]:
    """First steps from the shifts as told, or from common lines if these are likelier."""
    views = make_views(counts, margin_for(settings.width_a / pixel_a), known)
    tried: list[tuple[Fitted, Priors]] = []
    for start in shift_starts(counts, tilts, told, rotation, known):
        model = _start(counts, tilts, pixel_a, start.shifts, rotation, known, start_a, settings)
        priors = _priors(model, pixel_a, start, settings, 3 * settings.height_spread)
        tried.append((begun(views, model, priors, pixel_a), priors))
    now, priors = max(tried, key=lambda one: one[0].found.log_likelihood)
    return now, views, priors


def _priors(
    model: AtomModel, pixel_a: float, start: ShiftsStart, settings: LikelihoodSettings,
    spread: float,
) -> Priors:  # fmt: skip
    return Priors(
        spread, start.shifts, model.tilt_rad, model.rotation_rad,
        start.sd, math.radians(settings.tilt_sd_deg),
        math.radians(settings.rotation_sd_deg), settings.gain_sd,
        settings.nearest_a / pixel_a, settings.softness_a / pixel_a,
        tilt_groups(np.rad2deg(model.tilt_rad)),
    )  # fmt: skip


def _result(
    views: Views, now: Fitted, errors: Errors, pixel_a: float, quarters: int, axis: TiltAxis
) -> AtomFit:
    model = now.model
    _, offset = common_motion(model.shifts, model)
    rotation = model.rotation_rad
    shifts = model.shifts - offset * np.array([math.sin(rotation), math.cos(rotation)])
    means = now.found.means
    squares = np.zeros(views.size)
    for k in range(views.size):
        at = means[k] > 0
        squares[k] = np.mean((views.counts[k][at] - means[k][at]) ** 2 / means[k][at])
    return AtomFit(
        (model.positions - model.positions.mean(axis=0)) * pixel_a,
        model.positions.mean(axis=0) * pixel_a,
        errors.covariance * pixel_a**2,
        model.heights,
        errors.height_sd,
        errors.gain,
        errors.probability,
        errors.misfit,
        turned_shifts(shifts, quarters),
        np.abs(turned_shifts(errors.shift_sd, quarters)),
        np.rad2deg(model.tilt_rad),
        np.rad2deg(errors.tilt_sd_rad),
        offset,
        errors.offset_sd,
        math.degrees(rotation) + nearest_quarters_deg(axis.rotation_deg),
        math.degrees(errors.rotation_sd_rad),
        model.background,
        model.log_gain,
        model.width * pixel_a,
        model.tail,
        model.tail_width * pixel_a,
        squares,
    )
