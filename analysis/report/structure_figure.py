"""Pictures of a structure: maps of a slice, pair distributions, voids, profiles, displacements."""
# matplotlib is imported when a picture is drawn, for it takes a second.
# pyright: basic

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..structure.analysis import Structure
from ..structure.displacements import Displacements
from ..structure.lattice.atom_list import AtomList
from ..structure.lattice.interfaces import CORE
from ..structure.lattice.voids import KINDS

_DPI = 150
_SLICE_A = 5.0
_MOST_PAIRS = 7
_DISORDERED_BELOW = 0.534
_PHASE_COLOURS = {"amorphous": "tab:orange", "crystalline": "tab:blue", "core": "tab:red"}
# Array of each map, title, colours, unit factor.
_MAPS = (
    ("order", "order / that of fcc", "RdYlBu", 1.0, (0.2, 1.0)),
    ("concentration_per_a3", "concentration (10$^{-2}$ Å$^{-3}$)", "viridis", 100.0, None),
    ("oxidation", "degree of oxidation", "magma_r", 1.0, (0.0, 1.0)),
)


def draw_structure(
    path: Path, found: Structure, moves: tuple[AtomList, Displacements] | None = None
) -> None:
    """Draw one page: three maps, pair distributions, voids, profiles; and displacements if told.

    Parameters
    ----------
    path : Path
        PNG file to write.
    found : Structure
        The result.
    moves : tuple of AtomList and Displacements, optional
        Atoms of the later series, and how they moved.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 2 if moves is None else 3
    figure = Figure(figsize=(14.0, 4.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 3, squeeze=False)
    level = _level(found)
    for axis, shown in zip(axes[0], _MAPS, strict=True):
        _map(axis, figure, found, level, shown)
    _pairs(axes[1, 0], found)
    _voids(axes[1, 1], found)
    _profile(axes[1, 2], found)
    if moves is not None:
        _move_map(axes[2, 0], figure, *moves, level)
        _move_sizes(axes[2, 1], moves[1])
        _move_components(axes[2, 2], moves[1])
    figure.savefig(path, dpi=_DPI, format="png")


def _level(found: Structure) -> float:
    """Height of the slice: the middle of the core, else of all."""
    z = found.atoms.positions_a[:, 2]
    core = found.measurement.phase == CORE
    return float(z[core].mean() if core.any() else 0.5 * (z.min() + z.max()))


def _dot_size(axis: Any, span: float, spacing: float) -> float:
    """Area of a dot, in square points, whose neighbours just touch it."""
    box = axis.get_window_extent().width * 72 / axis.figure.dpi
    return float(np.clip((0.8 * spacing * box / max(span, 1.0)) ** 2, 2.0, 160.0))


def _frame_map(axis: Any, places: np.ndarray, spacing: float) -> float:
    low, high = places[:, :2].min(axis=0) - 2, places[:, :2].max(axis=0) + 2
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axis.set(xlabel="x (Å)", ylabel="y (Å)")
    return _dot_size(axis, float((high - low).max()), spacing)


def _map(axis: Any, figure: Any, found: Structure, level: float, shown: Any) -> None:
    name, title, colours, factor, limits = shown
    places = found.atoms.positions_a
    near = np.abs(places[:, 2] - level) <= _SLICE_A / 2
    values = factor * found.measurement.per_atom[name]
    size = _frame_map(axis, places, 0.75 * found.cutoff_a)
    known = near & np.isfinite(values)
    blank = near & ~np.isfinite(values)
    axis.scatter(*places[blank, :2].T, s=size, facecolors="none", edgecolors="0.7", linewidths=0.6)
    if limits is None:
        every = values[np.isfinite(values)]
        limits = np.percentile(every, (2, 98)) if len(every) else (0, 1)
    dots = axis.scatter(
        *places[known, :2].T, s=size, c=values[known], cmap=colours, vmin=limits[0], vmax=limits[1],
        edgecolors="0.3", linewidths=0.2,
    )  # fmt: skip
    figure.colorbar(dots, ax=axis, shrink=0.85)
    axis.set_title(title)
    if name == "order":
        axis.text(
            0.02, 0.02, f"slice of {_SLICE_A:g} Å, z = {level:.1f} Å", transform=axis.transAxes,
            fontsize="small", color="0.3",
        )  # fmt: skip


def _pairs(axis: Any, found: Structure) -> None:
    pairs = list(found.measurement.pairs.items())[:_MOST_PAIRS]
    lift = 0.0
    for name, pair in pairs:
        phase = name.rpartition(" ")[2]
        colour = _PHASE_COLOURS.get(phase, "k" if lift == 0 else None)
        (line,) = axis.plot(pair.r_a, pair.g + lift, lw=1.1, color=colour)
        sd = found.pair_sd[name]
        if np.isfinite(sd).all():
            axis.fill_between(
                pair.r_a, pair.g + lift - 2 * sd, pair.g + lift + 2 * sd,
                color=line.get_color(), alpha=0.3, lw=0,
            )  # fmt: skip
        axis.axhline(lift + 1, color="0.85", lw=0.6, zorder=0)
        peaks = pair.peaks_a(1)
        first = f"{peaks[0]:.2f} Å" if len(peaks) else ""
        axis.text(
            0.02, lift + 0.12, name.replace(" ", "\n") + "\n" + first, fontsize="small",
            color=line.get_color(), transform=axis.get_yaxis_transform(),
        )  # fmt: skip
        lift += max(2.0, 0.75 * float(pair.g.max()))
    axis.axvline(found.cutoff_a, color="0.5", ls=":", lw=1)
    end = float(pairs[0][1].r_a[-1])
    axis.set(xlim=(0.0, end), ylim=(0, None), xlabel="r (Å)", ylabel="g(r), shifted")
    axis.set_title("pair distributions, first peaks")


def _voids(axis: Any, found: Structure) -> None:
    voids = found.measurement.voids
    axis.set_title("voids")
    axis.set_xlabel("volume (Å$^3$)")
    axis.set_ylabel("number")
    labels = []
    for key, name in (("vacancies", "vacancies"), ("nano_pores", "nano-pores"),
                      ("large_pores", "large pores")):  # fmt: skip
        labels.append(f"{_told(found, key, 1)} {name}")
    labels.append(f"porosity {_told(found, 'porosity', 100, '.2f')} %")
    axis.text(0.97, 0.97, "\n".join(labels), transform=axis.transAxes, ha="right", va="top")
    if not len(voids.kinds):
        return
    highest = max(float(voids.volumes_a3.max()), 500.0) * 1.2
    edges = np.geomspace(40.0, highest, 24)
    for number, kind in enumerate(KINDS):
        axis.hist(voids.volumes_a3[voids.kinds == number], edges, color=f"C{number}", label=kind)
    axis.set_xscale("log")
    ticks = [at for at in (50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000) if at <= highest]
    axis.set_xticks(ticks, [str(at) for at in ticks])
    axis.set_xticks([], minor=True)
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.margins(y=0.35)


def _told(found: Structure, key: str, factor: float, form: str = ".0f") -> str:
    one = found.figures[key]
    text = format(factor * one.value, form)
    return text if np.isnan(one.error) else f"{text} ± {format(2 * factor * one.error, form)}"


def _profile(axis: Any, found: Structure) -> None:
    axis.set_title("profiles from the core's surface")
    if not len(found.profile):
        axis.set_axis_off()
        axis.text(0.5, 0.5, "no metal core", transform=axis.transAxes, ha="center", color="0.4")
        return
    middles = 0.5 * (found.edges_a[1:] + found.edges_a[:-1])
    errors = 2 * np.nan_to_num(found.profile_sd)
    right = axis.twinx()
    shown = (
        (axis, 1, 1.0, "order", "tab:blue"), (axis, 3, 1.0, "oxidation", "tab:orange"),
        (axis, 2, 1.0, "disordered part", "0.5"), (right, 0, 100.0, "concentration", "tab:green"),
    )  # fmt: skip
    for where, column, factor, label, colour in shown:
        where.errorbar(
            middles, factor * found.profile[:, column], factor * errors[:, column], fmt="o-",
            ms=3, lw=1, capsize=2, color=colour, label=label,
        )  # fmt: skip
    axis.axvline(0, color="0.5", ls=":", lw=1)
    axis.set(xlabel="distance (Å), negative inside", ylabel="0 to 1", ylim=(-0.05, 1.25))
    right.set_ylabel("concentration (10$^{-2}$ Å$^{-3}$)", color="tab:green")
    axis.legend(loc="upper center", fontsize="small", ncols=3, columnspacing=1.0)


def _move_map(axis: Any, figure: Any, after: AtomList, moves: Displacements, level: float) -> None:
    places = after.positions_a
    size = np.linalg.norm(moves.displacement_a, axis=1)
    at = places[moves.after]
    near = np.abs(at[:, 2] - level) <= _SLICE_A / 2
    area = _frame_map(axis, places, 3.0)
    limit = float(np.percentile(size, 99)) if len(size) else 1.0
    dots = axis.scatter(
        *at[near, :2].T, s=area, c=size[near], cmap="viridis", vmin=0, vmax=max(limit, 1e-3),
        edgecolors="0.3", linewidths=0.2,
    )  # fmt: skip
    new = places[moves.came]
    new = new[np.abs(new[:, 2] - level) <= _SLICE_A / 2]
    axis.scatter(*new[:, :2].T, s=area, marker="^", color="tab:red", label="came")
    figure.colorbar(dots, ax=axis, shrink=0.85)
    axis.set_title("displacement (Å)" + (", red: came" if len(new) else ""))


def _move_sizes(axis: Any, moves: Displacements) -> None:
    size = np.linalg.norm(moves.displacement_a, axis=1)
    top = max(float(size.max()) if len(size) else 1.0, 1e-3)
    edges = np.linspace(0, top, 50)
    axis.hist(size, edges, color="0.75", label=f"all {len(size)}")
    axis.hist(size[moves.moved], edges, color="tab:red", label=f"moved {int(moves.moved.sum())}")
    axis.set(xlabel="displacement (Å)", ylabel="atoms", yscale="log")
    axis.set_title(f"{len(moves.went)} atoms went, {len(moves.came)} came")
    axis.legend(loc="upper right")


def _move_components(axis: Any, moves: Displacements) -> None:
    sd = np.sqrt(np.diagonal(moves.covariance_a2, axis1=1, axis2=2))
    known = np.isfinite(sd).all()
    values = moves.displacement_a / sd if known else moves.displacement_a
    reach = 6.0 if known else float(np.abs(values).max())
    edges = np.linspace(-reach, reach, 61)
    for k, name in enumerate("xyz"):
        axis.hist(np.clip(values[:, k], -reach, reach), edges, histtype="step", label=name)
    if known:
        expected = len(values) * (edges[1] - edges[0]) / np.sqrt(2 * np.pi)
        axis.plot(edges, expected * np.exp(-(edges**2) / 2), "k:", label="error alone")
    axis.set(xlabel="displacement / its error" if known else "displacement (Å)", ylabel="atoms")
    axis.set_title("along the axes")
    axis.legend(loc="upper right")
