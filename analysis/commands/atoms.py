"""``pyrotome atoms``: the atoms of a tilt series at atomic resolution, with their errors."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from ...protocols.core.errors import BadInput
from ..alignment import TiltAxis
from ..atoms import AtomFit, LikelihoodSettings, fit_atoms
from ..io.safe_output import new_file
from ..io.tilt_angles import read_tilt_file
from ..io.tilt_series_readers import TiltStack, open_stack
from ..report.atom_files import write_table, write_xyz
from .import_ import (
    ImportRequest,
    KnownValues,
    checked_angles,
    pixel_nm_of,
    positive_quantity,
    quantity_of,
    tilt_axis_of,
)
from .interrupts import notify

_SYMBOL = re.compile(r"[A-Z][a-z]?")
_ANGSTROM = 10.0  # in a nanometre
_MOST_SPECIES, _SURE = 4, 0.95


@dataclass(frozen=True)
class AtomSeriesInput:
    """Counts of a tilt series, ready for the fit."""

    counts: NDArray[Any]
    tilt_deg: NDArray[np.float64]
    pixel_a: float
    axis: TiltAxis
    told: tuple[str, ...]


def read_counts(request: ImportRequest) -> AtomSeriesInput:
    """Read the counts of a tilt series, with angles, pixel size and tilt axis.

    Parameters
    ----------
    request : ImportRequest
        Source, angles, pixel size and tilt axis as for ``pyrotome import``.

    Returns
    -------
    AtomSeriesInput
        Counts of the views that are there.

    Raises
    ------
    BadInput
        If something is missing or disagrees, or the values cannot be counts.
    """
    given = None if request.tilts is None else read_tilt_file(request.tilts)
    known = KnownValues()
    with open_stack(request.source, request.entry) as stack:
        angles, there = checked_angles(stack, request, given)
        pixel_a = _ANGSTROM * pixel_nm_of(request, stack, given, known)
        axis_deg = tilt_axis_of(request, stack, given, known)
        counts = np.stack([_counts_of(stack, int(n)) for n in np.flatnonzero(there)])
    _check_counts(request.source, counts)
    return AtomSeriesInput(
        counts, angles[there], pixel_a, TiltAxis(0.0, axis_deg or 0.0), tuple(known.told)
    )


def _counts_of(stack: TiltStack, index: int) -> NDArray[Any]:
    stored = stack.read(index)
    if not stack.encoded:
        return stored
    return (stored.astype(np.float64) - stack.value_offset) * stack.value_scale


def _check_counts(source: Path, counts: NDArray[Any]) -> None:
    """Refuse what cannot be counts."""
    if not np.isfinite(counts).all():
        bad = int(np.flatnonzero(~np.isfinite(counts).all(axis=(1, 2)))[0])
        raise BadInput(f"{source}: image {bad}", "holds NaN or infinity; leave that image out")
    if counts.min() < 0:
        raise BadInput(
            str(source),
            f"its lowest value is {counts.min():g}; give counts as recorded, from which no "
            "background was subtracted",
        )
    if counts.dtype.kind == "f" and np.any(counts[0] != np.round(counts[0])):
        notify(f"{source}: values are not whole numbers; errors are right only for counts")


def atoms_command(
    source: Path,
    target: Path,
    tilts: Path | None,
    pixel_size: str | None,
    tilt_axis: str | None,
    entry: str | None,
    species: str,
    bond: str | None,
    table: Path | None,
    seed: int,
) -> None:
    """Carry out ``pyrotome atoms``; arguments as those of the command."""
    symbols = [symbol.strip() for symbol in species.split(",")]
    for symbol in symbols:
        if not _SYMBOL.fullmatch(symbol):
            raise BadInput(
                "--species", f"'{symbol}' is no chemical symbol; write it as in 'Zr' or 'Zr,O'"
            )
    if len(symbols) > _MOST_SPECIES or len(set(symbols)) < len(symbols):
        raise BadInput(
            "--species", f"'{species}'; name up to {_MOST_SPECIES} species, each of them once"
        )
    if target.suffix.lower() != ".xyz":
        raise BadInput("-o", f"{target}: atoms are written as extended XYZ; name a .xyz")
    if table is not None and table.suffix.lower() != ".csv":
        raise BadInput("--table", f"{table}: the table is written as CSV; name a .csv")
    pixel_nm = (
        None
        if pixel_size is None
        else positive_quantity("--pixel-size", pixel_size, "nm", "0.0347 nm")
    )
    axis_deg = None
    if tilt_axis is not None:
        axis_deg = quantity_of("--tilt-axis", tilt_axis, "deg", "90 deg")
    bond_a = None if bond is None else _ANGSTROM * positive_quantity("--bond", bond, "nm", "2.35 Å")
    series = read_counts(
        ImportRequest(source, target, tilts, pixel_nm, entry=entry, tilt_axis_deg=axis_deg)
    )
    with ExitStack() as files:
        xyz = files.enter_context(new_file(target))
        csv = None if table is None else files.enter_context(new_file(table))
        settings = LikelihoodSettings(bond_a=bond_a, species=len(symbols))
        fit = _fitted(series, settings, source, seed)
        write_xyz(xyz, fit, species, f"pyrotome atoms of {source.name}")
        if csv is not None:
            write_table(csv, fit, species)
    for doubt in fit.doubts:
        notify(f"{source}: {doubt}")
    for line in summary(fit, symbols):
        print(line)
    print(f"{target}: {len(fit.heights)} atoms; " + "; ".join(series.told))


def _fitted(
    series: AtomSeriesInput, settings: LikelihoodSettings, source: Path, seed: int
) -> AtomFit:
    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("atoms", total=1.0)
        try:
            return fit_atoms(
                series.counts, series.tilt_deg, series.pixel_a, axis=series.axis,
                settings=settings, seed=seed,
                progress=lambda done: bars.update(bar, completed=done),
            )  # fmt: skip
        except ValueError as error:
            raise BadInput(str(source), str(error)) from None


def summary(fit: AtomFit, symbols: list[str]) -> list[str]:
    """What a fit has found, in lines for a person; `symbols` name the species, brightest first."""
    trace = np.trace(fit.covariance_a2, axis1=1, axis2=2)
    unsure = int((fit.probability < 0.95).sum())
    return [
        f"position error {100 * np.sqrt(np.median(trace)):.1f} pm (median over the atoms); "
        f"{unsure} atom{'' if unsure == 1 else 's'} with a probability below 95 %",
        f"tilt axis {fit.axis_offset_px:+.2f} +- {fit.axis_offset_sd_px:.2f} px from the centre, "
        f"turned by {fit.rotation_deg:.2f} +- {fit.rotation_sd_deg:.2f} deg",
        f"peaks {fit.width_a:.3f} A wide (standard deviation), tail {fit.tail:.2f} of "
        f"{fit.tail_width_a:.1f} A, {np.median(fit.heights):.1f} counts an atom and view",
        *_species_lines(fit, symbols),
        *_depth_lines(fit),
    ]


def _species_lines(fit: AtomFit, symbols: list[str]) -> list[str]:
    if len(symbols) == 1:
        return []
    counts = np.bincount(fit.species_probability.argmax(axis=1), minlength=len(symbols))
    parts = [
        f"{count} {symbol} of {level:.1f} counts"
        for symbol, count, level in zip(
            symbols, counts[::-1], fit.typical_heights[::-1], strict=True
        )
    ]
    unsure = int((fit.species_probability.max(axis=1) < _SURE).sum())
    return [f"species: {', '.join(parts)}; {unsure} below a probability of {100 * _SURE:.0f} %"]


def _depth_lines(fit: AtomFit) -> list[str]:
    return [
        f"{what} change with depth by {100 * change[0]:+.2f} % a nanometre and "
        f"{100 * change[1]:+.3f} % a square nanometre"
        for what, change in (("heights", fit.heights_by_depth), ("widths", fit.widths_by_depth))
        if change.any()
    ]
