"""The whole analysis of structure: what positions say, with errors by drawing them again."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..core import run_to_end
from .doubts import doubts_of
from .lattice.atom_list import LEAST_ATOMS, AtomList, Floats64
from .lattice.interfaces import PHASES
from .lattice.pair_distribution import ShapeFunction, shape_function
from .measurement import PER_ATOM, PROFILE, Frame, Lattice, Measurement, lattice_of, measured
from .settings import StructureSettings, cutoff_of, metal_of
from .uncertainty import Estimate, drawn, extrapolated, roots_of

_LEAST_IN_PHASE = 30
_SURE = 1 - 1e-6
# Order falls by the first error more than by a second one; found in simulations.
_OF_ORDER = {"q4": 1.3, "q6": 1.3, "order": 1.3}
_PRESENT = 0.5


@dataclass(frozen=True)
class Structure:
    """What the positions of atoms say, with errors.

    Attributes
    ----------
    atoms : AtomList
        The metal atoms that are more likely there than not, in the order of the file.
    index : ndarray
        Shape (atoms,): their places in the list that was given.
    metal : str
        Their species.
    cutoff_a : float
        Longest bond in angstrom.
    measurement : Measurement
        Of the positions as they stand.
    sd : dict of str to ndarray
        Shape (atoms,) each: errors of the numbers of each atom, names as in `PER_ATOM`; NaN if
        positions have no errors.
    phase_probability : ndarray
        Shape (atoms, 3): part of the draws in which the atom is amorphous, crystalline, core.
    disordered_probability : ndarray
        Shape (atoms,): part of the draws in which the atom is disordered.
    figures : dict of str to Estimate
        Numbers of the whole, corrected for bias.
    edges_a : ndarray
        Shape (bins + 1,): of distance from the core's surface, in angstrom.
    profile, profile_sd : ndarray
        Shape (bins, 4): means by distance from the core, corrected for bias; columns as in
        `PROFILE`.
    pair_sd : dict of str to ndarray
        Error of each pair distribution at each distance.
    draws : int
        Number of draws; 0 if positions have no errors.
    doubts : tuple of str
        What seems to be wrong, and what it does to the result.
    """

    atoms: AtomList
    index: NDArray[np.intp]
    metal: str
    cutoff_a: float
    measurement: Measurement
    sd: dict[str, Floats64]
    phase_probability: Floats64
    disordered_probability: Floats64
    figures: dict[str, Estimate]
    edges_a: Floats64
    profile: Floats64
    profile_sd: Floats64
    pair_sd: dict[str, Floats64]
    draws: int
    doubts: tuple[str, ...] = ()


@dataclass
class _Draws:
    """What the draws at one level have given."""

    figures: list[Floats64]
    profile: list[Floats64]
    pairs: list[dict[str, Floats64]]
    sums: Floats64
    squares: Floats64
    number: Floats64
    phases: Floats64
    disordered: Floats64
    there: Floats64


def analyse_structure(
    atoms: AtomList,
    settings: StructureSettings | None = None,
    *,
    numbers: dict[str, int] | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Structure:
    """Evaluate what the positions of atoms say, and how well it is known.

    Order, concentration, oxidation and voids are those of the metal's lattice (Zhang et al., Nat.
    Commun. 2024). Positions are moved at random by their covariances, atoms left out by their
    probabilities, and everything is evaluated again: the spread is the error, and from how the
    figures move with more error the bias is found that the errors cause (:func:`extrapolated`).

    Parameters
    ----------
    atoms : AtomList
        Of :func:`atom_list`.
    settings : StructureSettings, optional
        What is taken for granted.
    numbers : dict of str to int, optional
        Atomic numbers by symbol, to find the metal.
    seed : int
        Of the random numbers; the same seed gives the same result.
    progress : callable, optional
        Called with the finished fraction.

    Returns
    -------
    Structure
        Of each atom and of the whole.

    Raises
    ------
    ValueError
        If the metal is not among the atoms or too rare, or no cutoff is found.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.structure import atom_list
    >>> grid = np.stack(np.mgrid[:9, :9, :9], -1).reshape(-1, 3)
    >>> fcc = 2.33 * grid[grid.sum(axis=1) % 2 == 0]
    >>> error = np.tile(0.0025 * np.eye(3), (len(fcc), 1, 1))
    >>> noisy = fcc + np.random.default_rng(1).normal(0, 0.05, fcc.shape)
    >>> found = analyse_structure(atom_list(noisy, "Zr", error), StructureSettings(draws=4))
    >>> peak = found.figures["pdf_Zr-Zr_peak_1_a"]
    >>> abs(peak.value - 3.295) < 3 * peak.error < 0.05
    True
    """
    steps = iter_analyse_structure(atoms, settings, numbers=numbers, seed=seed)
    return run_to_end(steps, progress)


def iter_analyse_structure(
    atoms: AtomList,
    settings: StructureSettings | None = None,
    *,
    numbers: dict[str, int] | None = None,
    seed: int = 0,
) -> Generator[float, None, Structure]:
    """Evaluate as :func:`analyse_structure` does, and yield the finished fraction in between."""
    settings = settings or StructureSettings()
    metal = settings.metal or metal_of(atoms.species, numbers or {})
    given = np.arange(len(atoms.positions_a))
    present = (
        np.ones(len(given), np.bool_) if atoms.probability is None
        else atoms.probability >= _PRESENT
    )  # fmt: skip
    is_metal = atoms.species == metal
    if (is_metal & present).sum() < LEAST_ATOMS:
        raise ValueError(
            f"{int((is_metal & present).sum())} atoms of {metal}; structure needs at least "
            f"{LEAST_ATOMS}"
        )
    index = given[is_metal & present]
    cutoff = cutoff_of(atoms.where(index), metal, settings, seed)
    frame, lattice = _frame(atoms, present, metal, cutoff, settings, seed)
    base = measured(atoms.where(present), frame, lattice)
    frame = _with_peaks(frame, base)
    base = measured(atoms.where(present), frame, lattice)
    roots = None if atoms.covariance_a2 is None else roots_of(atoms.covariance_a2)
    sure = atoms.probability is None or bool((atoms.probability >= _SURE).all())
    plan = _plan(settings.draws, moved=roots is not None, sure=sure)
    results = {level: _empty(len(given)) for level in (0, 1, 2)}
    rng = np.random.default_rng(seed)
    for done, level in enumerate(plan, 1):
        _draw(atoms, roots, level, frame, rng, results[level])
        yield done / len(plan)
    found = _result(atoms, index, frame, base, results, len(plan))
    return replace(found, doubts=doubts_of(found.atoms, lattice, frame, len(given) - present.sum()))


def _plan(draws: int, *, moved: bool, sure: bool) -> list[int]:
    """Levels of the draws."""
    plan = [0] * (0 if sure else max(draws // 2, 2))
    if moved:
        plan += [1] * draws + [2] * max(draws // 2, 2)
    return plan if draws else []


def _frame(
    atoms: AtomList, present: NDArray[np.bool_], metal: str, cutoff: float,
    settings: StructureSettings, seed: int,
) -> tuple[Frame, Lattice]:  # fmt: skip
    """Shapes of the whole and of its phases, from the positions as they stand."""
    positions = atoms.positions_a[(atoms.species == metal) & present]
    lattice = lattice_of(positions, cutoff, settings)
    tetrahedra, phase = lattice.tetrahedra, lattice.parts.phase

    def shape(members: NDArray[np.bool_] | None) -> ShapeFunction:
        rng = np.random.default_rng(seed)
        return shape_function(positions, tetrahedra, settings.longest_a, rng, members)

    shapes = {"": shape(None)}
    for number, name in enumerate(PHASES):
        chosen = phase == number
        if _LEAST_IN_PHASE <= chosen.sum() < len(chosen):
            shapes[name] = shape(chosen)
    return Frame(settings, metal, cutoff, shapes, {}, _edges(lattice, settings)), lattice


def _edges(lattice: Lattice, settings: StructureSettings) -> Floats64:
    distance = lattice.parts.distance_a
    known = distance[np.isfinite(distance)]
    if not len(known):
        return np.zeros(0)
    step = settings.profile_step_a
    return step * np.arange(np.floor(known.min() / step), np.ceil(known.max() / step) + 1)


def _with_peaks(frame: Frame, base: Measurement) -> Frame:
    """Peaks: six of the partial functions, the first of each phase."""
    peaks = {
        name: found.peaks_a(1 if " " in name else 6) for name, found in base.pairs.items()
    }  # fmt: skip
    return replace(frame, peaks_a=peaks)


def _empty(atoms: int) -> _Draws:
    kinds = len(PER_ATOM)
    return _Draws(
        [], [], [], np.zeros((kinds, atoms)), np.zeros((kinds, atoms)), np.zeros((kinds, atoms)),
        np.zeros((atoms, len(PHASES))), np.zeros(atoms), np.zeros(atoms),
    )  # fmt: skip


def _draw(
    atoms: AtomList, roots: Floats64 | None, level: int, frame: Frame, rng: np.random.Generator,
    into: _Draws,
) -> None:  # fmt: skip
    """Draw once, evaluate, and add to what has been drawn."""
    one, there = drawn(atoms, roots, level, rng)
    if (one.species == frame.metal).sum() < LEAST_ATOMS:
        return
    found = measured(one, frame)
    into.figures.append(np.array(list(found.figures.values())))
    into.profile.append(found.profile)
    into.pairs.append({name: pair.g for name, pair in found.pairs.items()})
    at = np.flatnonzero(there & (atoms.species == frame.metal))
    for row, name in enumerate(PER_ATOM):
        values = found.per_atom[name]
        known = np.isfinite(values)
        into.sums[row, at[known]] += values[known]
        into.squares[row, at[known]] += values[known] ** 2
        into.number[row, at[known]] += 1
    into.phases[at, found.phase] += 1
    into.disordered[at] += found.per_atom["order"] < frame.settings.disordered_below
    into.there[at] += 1


def _result(
    atoms: AtomList, index: NDArray[np.intp], frame: Frame, base: Measurement,
    results: dict[int, _Draws], draws: int,
) -> Structure:  # fmt: skip
    main = results[1] if results[1].figures else results[0]
    raw = np.array(list(base.figures.values()))
    value, error = _estimated(results, "figures", raw)
    value = _possible(value, tuple(base.figures))
    profile, profile_sd = _estimated(results, "profile", base.profile)
    profile = _possible(profile, PROFILE)
    there = np.maximum(main.there[index], 1)
    drawn_at_all = bool(main.figures)
    phases = main.phases[index] / there[:, None]
    disordered: Floats64 = main.disordered[index] / there
    if not drawn_at_all:
        phases = np.eye(len(PHASES))[base.phase]
        below = base.per_atom["order"] < frame.settings.disordered_below
        disordered = below.astype(np.float64)
    pair_sd = {
        name: np.std([g[name] for g in main.pairs if name in g], axis=0, ddof=1)
        if sum(name in g for g in main.pairs) > 1 else np.full(len(pair.g), np.nan)
        for name, pair in base.pairs.items()
    }  # fmt: skip
    return Structure(
        atoms.where(index), index, frame.metal, frame.cutoff_a, base,
        _atom_errors(main, index, base),
        phases, disordered,
        {
            name: Estimate(float(v), float(e), float(r))
            for name, v, e, r in zip(base.figures, value, error, raw, strict=True)
        },
        frame.edges_a, profile, profile_sd, pair_sd, draws,
    )  # fmt: skip


def _estimated(results: dict[int, _Draws], what: str, raw: Floats64) -> tuple[Floats64, Floats64]:
    """Values and errors of all numbers of a kind."""
    tables = [
        np.reshape(getattr(results[level], what), (len(getattr(results[level], what)), raw.size))
        for level in (0, 1, 2)
    ]
    flat = raw.ravel()
    if len(tables[1]):
        value, error = extrapolated(tables[0], tables[1], tables[2], flat)
        value = np.where(np.isfinite(value), value, flat)
    elif len(tables[0]):
        value, error = flat, np.std(tables[0], axis=0, ddof=1)
    else:
        value, error = flat, np.full(flat.shape, np.nan)
    return value.reshape(raw.shape), error.reshape(raw.shape)


def _possible(values: Floats64, names: tuple[str, ...]) -> Floats64:
    """Values that a correction has carried below zero, or a part above one, stop there."""
    parts = [name.endswith(("fraction", "oxidation")) or name == "porosity" for name in names]
    return np.clip(values, 0.0, np.where(parts, 1.0, np.inf))


def _atom_errors(main: _Draws, index: NDArray[np.intp], base: Measurement) -> dict[str, Floats64]:
    """Root of the mean square of what the draws differ by from the value of each atom."""
    errors: dict[str, Floats64] = {}
    for row, name in enumerate(PER_ATOM):
        number = main.number[row, index]
        value = base.per_atom[name]
        known = (number > 1) & np.isfinite(value)
        safe = np.maximum(number, 1)
        mean = main.sums[row, index] / safe
        square = main.squares[row, index] / safe - 2 * value * mean + value**2
        spread = _OF_ORDER.get(name, 1.0) * np.sqrt(np.maximum(square, 0.0))
        errors[name] = np.where(known, spread, np.nan)
    return errors
