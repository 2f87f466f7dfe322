"""Plots of neck growth against time and centre distance, and of the denoiser's parameter search."""
# matplotlib is imported when a picture is drawn, for it takes a second.
# pyright: basic

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..denoise.parameter_search import NoiseChoice
from ..particles.necks import Neck

Row = tuple[str, float, Neck]
_DPI = 150


def model_distance_nm(neck_nm: NDArray[Any], radius_nm: float) -> NDArray[np.float64]:
    """Centre distance of two equal spheres joined by a cylinder, at constant volume.

    Model of Ihara et al., Nanoscale 2023, 15, 10133. A cylinder of radius x replaces a cap of
    height c = R - sqrt(R^2 - x^2) of each sphere. Equal volumes, pi x^2 l = pi c^2 (3 R - c) / 3,
    give its half length l, and d = 2 (R - c + l).

    Parameters
    ----------
    neck_nm : ndarray
        Neck radii x in nm, from 0 to `radius_nm`; any shape.
    radius_nm : float
        Radius R of the spheres.

    Returns
    -------
    ndarray
        Distances in nm, in the shape of `neck_nm`; 2 R where the neck is 0.

    Raises
    ------
    ValueError
        If a neck is negative or wider than the spheres.

    Examples
    --------
    >>> import numpy as np
    >>> model_distance_nm(np.array([0.0, 30.0]), 75.0).round(1).tolist()
    [150.0, 143.8]
    """
    necks = np.asarray(neck_nm, np.float64)
    if np.any(necks < 0) or np.any(necks > radius_nm):
        raise ValueError(f"neck radii must lie between 0 and the spheres' radius {radius_nm} nm")
    cap = radius_nm - np.sqrt(radius_nm**2 - necks**2)
    square = np.where(necks > 0, necks**2, 1.0)
    half_nm = np.where(necks > 0, cap**2 * (3 * radius_nm - cap) / (3 * square), 0.0)
    return 2 * (radius_nm - cap + half_nm)


def _by_pair(rows: list[Row]) -> dict[tuple[int, int], list[Row]]:
    pairs: dict[tuple[int, int], list[Row]] = {}
    for row in sorted(rows, key=lambda r: r[1]):
        pairs.setdefault((row[2].particle_a, row[2].particle_b), []).append(row)
    return pairs


def _figure(columns: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * columns, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def plot_growth(path: Path, rows: Iterable[Row]) -> None:
    """Plot r_n/r_p and d/2r_p against the time at the processing temperature.

    Each pair is a thin line; the median of all pairs of a series is a thick line.

    Parameters
    ----------
    path : Path
        PNG file to write.
    rows : iterable of (series, hold_total_s, Neck)
        As for :func:`.necks.write_necks`, with labels tracked over the series.

    Raises
    ------
    ValueError
        If there are no rows.

    Examples
    --------
    >>> import tempfile
    >>> neck = Neck(1, 2, 10.0, 75.0, 149.0, 149.0, 0.0, 1.0, 0.133, 0.993)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_growth(Path(folder) / "growth.png", [("series_001", 5.0, neck)])
    """
    table = list(rows)
    if not table:
        raise ValueError("no neck is measured; there is nothing to plot")
    figure, axes = _figure(2)
    wanted = (("neck_to_particle", "$r_n / r_p$"), ("distance_to_diameter", "$d / 2 r_p$"))
    times_s = sorted({row[1] for row in table})
    for axis, (name, title) in zip(axes, wanted, strict=True):
        for pair in _by_pair(table).values():
            values = [getattr(row[2], name) for row in pair]
            axis.plot([row[1] for row in pair], values, ".-", color="0.7", lw=0.7, ms=3)
        medians = [np.median([getattr(r[2], name) for r in table if r[1] == t]) for t in times_s]
        axis.plot(times_s, medians, "o-", color="tab:red", lw=2, label="median")
        axis.set_xlabel("time at processing temperature (s)")
        axis.set_ylabel(title)
        axis.legend()
    figure.savefig(path, dpi=_DPI, format="png")


def plot_model(path: Path, rows: Iterable[Row]) -> None:
    """Plot r_n against d beside the model of two spheres (:func:`model_distance_nm`).

    The spheres of the model have the median r_p of all rows; the colour is the time.

    Parameters
    ----------
    path, rows
        See :func:`plot_growth`.

    Raises
    ------
    ValueError
        If there are no rows.

    Examples
    --------
    >>> import tempfile
    >>> neck = Neck(1, 2, 10.0, 75.0, 149.0, 149.0, 0.0, 1.0, 0.133, 0.993)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_model(Path(folder) / "model.png", [("series_001", 5.0, neck)])
    """
    table = list(rows)
    if not table:
        raise ValueError("no neck is measured; there is nothing to plot")
    figure, (axis,) = _figure(1)
    for pair in _by_pair(table).values():
        points = [(row[2].distance_nm, row[2].neck_radius_nm) for row in pair]
        axis.plot(*zip(*points, strict=True), color="0.8", lw=0.6, zorder=1)
    dots = axis.scatter(
        [row[2].distance_nm for row in table],
        [row[2].neck_radius_nm for row in table],
        c=[row[1] for row in table],
        s=14,
        zorder=2,
    )
    figure.colorbar(dots, ax=axis, label="time at processing temperature (s)")
    radius_nm = float(np.median([row[2].particle_radius_nm for row in table]))
    highest = min(radius_nm, 1.2 * max(row[2].neck_radius_nm for row in table))
    necks_nm = np.linspace(0.0, highest, 200)
    axis.plot(
        model_distance_nm(necks_nm, radius_nm),
        necks_nm,
        "k--",
        label=f"two spheres of {radius_nm:.0f} nm, constant volume",
    )
    axis.set_xlabel("centre distance $d$ (nm)")
    axis.set_ylabel("neck radius $r_n$ (nm)")
    axis.legend()
    figure.savefig(path, dpi=_DPI, format="png")


def plot_tuning(path: Path, choice: NoiseChoice) -> None:
    """Plot the PSNR against the variance given to the denoiser, one line per noise type.

    The best settings are marked; the dashed line is the noisy frame. Variance "auto" is a dotted
    line, and marked at the right if it is the best.

    Parameters
    ----------
    path : Path
        PNG file to write.
    choice : NoiseChoice
        Result of :func:`.search_parameters`.

    Raises
    ------
    ValueError
        If there are no trials.

    Examples
    --------
    >>> import tempfile
    >>> from pyrotome.analysis.denoise import Trial
    >>> trials = (Trial("white", 4.0, 30.0), Trial("white", 16.0, 28.0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_tuning(Path(folder) / "t.png", NoiseChoice("white", 4.0, 30.0, 20.0, trials))
    """
    if not choice.trials:
        raise ValueError("the parameter search has no trials; there is nothing to plot")
    figure, (axis,) = _figure(1)
    for noise in dict.fromkeys(trial.noise for trial in choice.trials):
        tried = [t for t in choice.trials if t.noise == noise]
        given = [(t.variance, t.psnr_db) for t in tried if t.variance != "auto"]
        colour = None
        if given:
            (line,) = axis.plot(*zip(*sorted(given), strict=True), ".-", lw=1, label=noise)
            colour = line.get_color()
        for trial in tried:
            if trial.variance == "auto":
                label = f"{noise}, auto"
                axis.axhline(trial.psnr_db, color=colour or "0.3", ls=":", label=label)
    axis.axhline(choice.noisy_psnr_db, color="0.4", ls="--", label="not denoised")
    axis.set_xscale("log")
    best = (1.0, choice.psnr_db) if choice.variance == "auto" else (choice.variance, choice.psnr_db)
    across = axis.get_yaxis_transform() if choice.variance == "auto" else axis.transData
    axis.plot(*best, "k*", ms=12, transform=across, clip_on=False, zorder=5)
    axis.set_xlabel("variance (8-bit scale)")
    axis.set_ylabel("PSNR (dB)")
    axis.legend(fontsize="small", title=f"best: {choice.noise}, {_number(choice.variance)}")
    figure.savefig(path, dpi=_DPI, format="png")


def _number(variance: float | str) -> str:
    return variance if isinstance(variance, str) else f"{variance:.4g}"
