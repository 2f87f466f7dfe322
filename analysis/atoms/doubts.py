"""What is wrong with a series, as far as its fit tells: messages for the operator."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.stats import poisson

from .refinement.heights import HeightClasses
from .refinement.likelihood import expect
from .refinement.model import AtomModel, Floats64, Views, places

# A gap counts as a missing view from so many usual steps of the tilt; a wedge is no gap.
_GAP, _WEDGE = 1.7, 5.0
# A view whose squared residuals exceed those of the others by so many spreads, and by so much.
_OUTLYING, _WORSE = 6.0, 0.02
# A tilt that is pulled by so many of its prior's standard deviations.
_PULLED = 4.0
# Angles at which a view in doubt is tried, and the log likelihood by which one must be better.
_TRIED_DEG = np.arange(-12.0, 12.01, 0.5)
_BETTER = 10.0
# Pixels at the highest count: so many, and so many times those that the model expects.
_LEAST_SATURATED, _TIMES_EXPECTED = 10, 3.0
_MISFIT, _EDGE_PART = 1.15, 0.002
_SCALE_PART, _SCALE_SDS = 0.01, 4.0
_HEIGHTS = 1.3
# A film is told where so many standard deviations, and such a part of the background, grow with
# its thickness along the beam; that must differ by so much between the views.
_FILM_SDS, _FILM_PART = 6.0, 0.1
_LEAST_COSINE, _LEAST_THICKENING = 0.2, 0.3
# A species has at least this part of the atoms.
_LEAST_OF_SPECIES = 0.01


@dataclass(frozen=True)
class BondScale:
    """Length of the bonds of a model over that which is expected.

    Attributes
    ----------
    ratio : float
        Mean length of a bond over the length that is expected.
    sd : float
        Its standard deviation.
    """

    ratio: float
    sd: float


def bond_scale(positions_a: NDArray[Any], bond_a: float) -> BondScale | None:
    """Compare the bonds of a model with a length that is known.

    Images alone do not tell the size of a pixel: a particle that is larger and pixels that are
    larger give the same counts. A known bond does.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    bond_a : float
        Length of the bond between neighbours in angstrom.

    Returns
    -------
    BondScale or None
        The ratio; None for fewer than ten bonds.

    Examples
    --------
    >>> import numpy as np
    >>> lattice = np.stack(np.mgrid[:4, :4, :4], -1).reshape(-1, 3) * 2.02
    >>> round(bond_scale(lattice, 2.0).ratio, 3)
    1.01
    """
    positions = np.asarray(positions_a, np.float64)
    pairs = KDTree(positions).query_pairs(1.5 * bond_a, output_type="ndarray")
    lengths = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    lengths = lengths[lengths > 0.7 * bond_a]
    if lengths.size < 10:
        return None
    density, edges = np.histogram(lengths, np.linspace(0.7, 1.3, 25) * bond_a)
    shells = density / (0.5 * (edges[1:] + edges[:-1])) ** 2
    centre = float(edges[np.argmax(shells)] + 0.5 * (edges[1] - edges[0]))
    near = lengths
    for _ in range(20):
        near = lengths[np.abs(lengths - centre) < 0.1 * bond_a]
        centre = float(near.mean()) if near.size else centre
    return BondScale(centre / bond_a, float(near.std() / math.sqrt(max(1, near.size))) / bond_a)


def doubts_of(
    views: Views,
    model: AtomModel,
    told_deg: Floats64,
    tilt_sd_deg: float,
    misfit: Floats64,
    height_spread: float,
    classes: HeightClasses,
) -> list[str]:
    """Messages about a series, from its fitted model.

    Parameters
    ----------
    views : Views
        The recorded counts.
    model : AtomModel
        The fitted model.
    told_deg : ndarray
        Angles as told, in degrees, shape (views,).
    tilt_sd_deg : float
        Standard deviation of the angles about these, as the fit took it.
    misfit : ndarray
        Shape (atoms,): squared residuals near an atom over what is expected.
    height_spread : float
        Relative spread of the heights of a species, as the fit took it.
    classes : HeightClasses
        Typical heights of the species.

    Returns
    -------
    list of str
        One message for each doubt; empty if there is none.
    """
    found = expect(views, model).means
    return [
        *_repeated(views, told_deg),
        *_gaps(told_deg),
        *_outlying(views, model, found, told_deg, tilt_sd_deg),
        *_beyond_the_field(views, model),
        *_saturated(views, found),
        *_film(views, model, found),
        *_misfits(misfit),
        *_heights(model.heights, height_spread, classes),
    ]


def scale_doubt(positions_a: Floats64, bond_a: float) -> list[str]:
    """A message if the bonds do not have the length that is expected."""
    scale = bond_scale(positions_a, bond_a)
    if scale is None:
        return [f"there are too few bonds near {bond_a:g} A to check the pixel size"]
    off = abs(scale.ratio - 1)
    if off > _SCALE_PART and off > _SCALE_SDS * scale.sd:
        return [
            f"bonds are {scale.ratio:.3f} +- {scale.sd:.3f} times {bond_a:g} A long: the pixel "
            "size seems to be wrong by that factor, and all lengths and errors with it"
        ]
    return []


def _names(numbers: NDArray[Any], tilts: Floats64) -> str:
    shown = ", ".join(f"{n} ({tilts[n]:.1f} deg)" for n in numbers[:5])
    return shown + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def _repeated(views: Views, tilts: Floats64) -> list[str]:
    messages: list[str] = []
    seen: dict[bytes, int] = {}
    for k in range(views.size):
        first = seen.setdefault(views.counts[k].tobytes(), k)
        if first != k:
            messages.append(
                f"views {first} and {k} are the same picture, pixel by pixel, at "
                f"{tilts[first]:.1f} and {tilts[k]:.1f} deg: leave one out; counted "
                "twice, they make errors seem smaller than they are"
            )
    return messages


def _gaps(tilts: Floats64) -> list[str]:
    # Frames of one tilt are read back with angles that differ a little.
    ranked = np.unique(np.round(tilts, 1))
    if ranked.size < 4:
        return []
    gaps = np.diff(ranked)
    usual = float(np.median(gaps))
    holes = np.flatnonzero((gaps > _GAP * usual) & (gaps < _WEDGE * usual))
    return [
        f"no view between {ranked[n]:.1f} and {ranked[n + 1]:.1f} deg, where the usual step is "
        f"{usual:.1f} deg: errors are larger along the direction that it would have shown"
        for n in holes
    ]


def _outlying(
    views: Views,
    model: AtomModel,
    found: NDArray[np.float32],
    told_deg: Floats64,
    tilt_sd_deg: float,
) -> list[str]:
    squares = np.array([
        np.mean((seen[mean > 0] - mean[mean > 0]) ** 2 / mean[mean > 0])
        for seen, mean in zip(views.counts, found, strict=True)
    ])  # fmt: skip
    middle = float(np.median(squares))
    spread = 1.48 * float(np.median(np.abs(squares - middle)))
    worse = (squares > middle + _OUTLYING * spread) & (squares > middle + _WORSE)
    pulls = np.abs(np.rad2deg(model.tilt_rad) - told_deg)
    pulled = (pulls > _PULLED * tilt_sd_deg) if tilt_sd_deg > 0 else np.zeros(views.size, np.bool_)
    messages: list[str] = []
    for k in np.flatnonzero(worse | pulled):
        better = _better_tilt(views, model, int(k), float(told_deg[k]))
        if better is not None:
            messages.append(
                f"view {k}, told to be at {told_deg[k]:.1f} deg, fits best at {better:.1f} deg: "
                "the stage may have stood still or gone elsewhere; leave the view out, it pulls "
                "atoms to where they are not, by more than their errors say"
            )
        elif worse[k]:
            messages.append(
                f"view {k} ({told_deg[k]:.1f} deg) does not fit the others: squared residuals are "
                f"{squares[k] / middle:.2f} times the usual; leave it out and "
                "compare, errors may be larger than told"
            )
    return messages


def _better_tilt(views: Views, model: AtomModel, k: int, told_deg: float) -> float | None:
    """Another angle at which a view fits clearly better."""
    single = Views(
        views.counts[k : k + 1], views.known[k : k + 1], views.floor[k : k + 1], views.margin
    )
    values: list[float] = []
    angles = told_deg + _TRIED_DEG
    for angle in angles:
        tried = replace(
            model, shifts=model.shifts[k : k + 1], tilt_rad=np.deg2rad([angle]),
            background=model.background[k : k + 1], log_gain=model.log_gain[k : k + 1],
        )  # fmt: skip
        values.append(expect(single, tried).log_likelihood)
    best = int(np.argmax(values))
    here = values[len(values) // 2]
    far = abs(_TRIED_DEG[best]) > 0.5
    return float(angles[best]) if far and values[best] > here + _BETTER else None


def _beyond_the_field(views: Views, model: AtomModel) -> list[str]:
    high, broad = views.counts.shape[1:]
    near = views.margin + model.width
    parts = np.zeros(views.size)
    for k in range(views.size):
        at = places(model, k, views.centre)
        out = (at.rows < near) | (at.rows > high - 1 - near)
        out |= (at.columns < near) | (at.columns > broad - 1 - near)
        parts[k] = out.mean()
    cut = np.flatnonzero(parts > _EDGE_PART)
    if not cut.size:
        return []
    tilts = np.rad2deg(model.tilt_rad)
    return [
        f"the particle reaches the edge of the field in {cut.size} views, such as "
        f"{_names(cut, tilts)}: atoms there have larger errors, and what lies beyond is missing"
    ]


def _saturated(views: Views, found: NDArray[np.float32]) -> list[str]:
    top = float(views.counts.max())
    at_top = int((views.counts == top).sum())
    bright = found[found > 0.25 * top].astype(np.float64)
    expected = float(poisson.sf(top - 1, bright).sum()) if bright.size else 0.0
    beyond = float(poisson.sf(top, bright).sum()) if bright.size else 0.0
    many = at_top >= _LEAST_SATURATED and at_top > _TIMES_EXPECTED * max(expected - beyond, 1.0)
    if not many:
        return []
    return [
        f"{at_top} pixels have the highest count, {top:g}, where {expected - beyond:.0f} are "
        "expected: the detector seems to saturate; errors of atoms there are too small"
    ]


def _film(views: Views, model: AtomModel, found: NDArray[np.float32]) -> list[str]:
    """A film behind the particle: its counts grow with the tilt as its thickness along the beam."""
    cosine = np.abs(np.cos(model.tilt_rad))
    use = cosine > _LEAST_COSINE
    thickness = 1 / cosine[use]
    if use.sum() < 4 or np.ptp(thickness) < _LEAST_THICKENING:
        return []
    columns = np.stack([thickness, np.ones(thickness.size)], axis=1)
    solved = np.linalg.lstsq(columns, model.background[use], rcond=None)[0]
    rest = model.background[use] - columns @ solved
    scatter = float(np.sum(rest**2)) / (thickness.size - 2)
    sd = math.sqrt(scatter * float(np.linalg.inv(columns.T @ columns)[0, 0]))
    film = float(solved[0])
    if film < _FILM_SDS * sd or film < _FILM_PART * float(model.background[use].mean()):
        return []
    # Variance of the counts where the particle is, with the film's counts and without.
    own = [mean[mean > 2 * level] for mean, level in zip(found, model.background, strict=True)]
    with_film = np.mean([float(part.mean()) if part.size else 0.0 for part in own])
    less = max(with_film - film * float(thickness.mean()), 1e-9)
    return [
        f"counts beside the particle grow with the tilt like those of a film of even thickness, "
        f"{film:.2f} in a pixel at tilt 0: its noise makes the errors of the atoms about "
        f"{100 * (math.sqrt(max(1.0, float(with_film) / less)) - 1):.0f} % larger, which is in the "
        "errors told; atoms of the film are not in the model"
    ]


def _misfits(misfit: NDArray[np.float64]) -> list[str]:
    mean = float(np.median(misfit)) if misfit.size else 1.0
    if mean <= _MISFIT:
        return []
    return [
        f"squared residuals near the atoms are {mean:.2f} times what counting allows: the "
        f"model is not right, and the errors were inflated by {math.sqrt(mean):.2f}"
    ]


def _heights(heights: Floats64, height_spread: float, classes: HeightClasses) -> list[str]:
    own = classes.memberships(heights, height_spread * classes.levels).argmax(axis=1)
    spread = float(np.std(heights / classes.levels[own]))
    messages: list[str] = []
    if spread > _HEIGHTS * height_spread:
        messages.append(
            f"heights spread by {100 * spread:.0f} %, more than the {100 * height_spread:.0f} % of "
            f"{'one' if classes.levels.size == 1 else 'each'} species: another species, or atoms "
            "that are not there; give all species, or allow more with height_spread. Until then "
            "heights are pulled to one value, and errors are those of atoms alike"
        )
    counts = np.bincount(own, minlength=classes.levels.size)
    if counts.min() < _LEAST_OF_SPECIES * heights.size:
        messages.append(
            f"heights show fewer than the {counts.size} species that were told: typical heights "
            f"{', '.join(f'{level:.1f}' for level in classes.levels)} with "
            f"{', '.join(map(str, counts))} atoms; species of these atoms mean little"
        )
    return messages
