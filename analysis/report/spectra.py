"""What a ramp of spectra has shown: table of fronts, picture, and a NeXus file of the results."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..spectra import Z95, DiffusionFit

Array = NDArray[np.float64]
_DPI = 150
_PICTURES = 4


@dataclass(frozen=True)
class RampResult:
    """Results of a ramp.

    Attributes
    ----------
    source : str
        Where the frames come from.
    names : tuple of str
        Components.
    front : str
        The component that diffuses.
    mass : ndarray of shape (channels,)
        Mass over charge.
    spectra : ndarray of shape (components, channels)
        Each sums to 1.
    maps : ndarray of shape (maps, components, rows, columns)
        Counts a pixel, of some frames.
    map_frames : ndarray of shape (maps,)
        Which frames these are.
    temperature_c : ndarray of shape (frames,)
        Of the middle of each frame.
    drift_px, drift_sd_px : ndarray of shape (frames, 2)
        Shift (y, x) against the first frame.
    pixel_um : float
        Size of a pixel.
    front_frames : ndarray of shape (followed,)
        Frames in which the front was followed.
    front_c : ndarray of shape (followed,)
        Temperature of the interface in them.
    length_um, length_sd_um : ndarray of shape (followed, boxes)
        Front lengths.
    fits : tuple of DiffusionFit
        One for each law.
    doubts : tuple of str
        What seems wrong.
    """

    source: str
    names: tuple[str, ...]
    front: str
    mass: Array
    spectra: Array
    maps: NDArray[np.float32]
    map_frames: NDArray[np.int64]
    temperature_c: Array
    drift_px: Array
    drift_sd_px: Array
    pixel_um: float
    front_frames: NDArray[np.int64]
    front_c: Array
    length_um: Array
    length_sd_um: Array
    fits: tuple[DiffusionFit, ...]
    doubts: tuple[str, ...]


def write_front_table(path: Path, result: RampResult) -> None:
    """Write front lengths as CSV: one row a frame in which the front was followed.

    Columns are frame, temperature_c, drift_y_px, drift_x_px, for each box its length and its sd in
    micrometres, and their weighted mean with its sd.
    """
    boxes = result.length_um.shape[1]
    head = ["frame", "temperature_c", "drift_y_px", "drift_x_px"]
    for box in range(boxes):
        head += [f"length_{box + 1}_um", f"length_{box + 1}_sd_um"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*head, "length_um", "length_sd_um"])
        for k, frame in enumerate(result.front_frames):
            drift = [f"{value:.3f}" for value in result.drift_px[frame]]
            boxed = np.stack([result.length_um[k], result.length_sd_um[k]], axis=1).ravel()
            mean = weighted_mean(result.length_um[k], result.length_sd_um[k])
            writer.writerow(
                [int(frame), f"{result.front_c[k]:.2f}", *drift,
                 *[_number(value) for value in (*boxed, *mean)]]
            )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else ""


def weighted_mean(values: Array, sds: Array) -> tuple[float, float]:
    """Mean of values with errors, and its sd; nan where there is none."""
    known = np.isfinite(values) & np.isfinite(sds) & (sds > 0)
    if not known.any():
        return float("nan"), float("nan")
    weight = 1.0 / sds[known] ** 2
    return float((weight * values[known]).sum() / weight.sum()), float(weight.sum() ** -0.5)


def diffusion_lines(fits: Sequence[DiffusionFit], front: str) -> list[str]:
    """What the laws say, in lines for a person; each value with its 95 % interval."""
    lines: list[str] = []
    for fit in fits:
        q, q_sd = fit.activation_j_per_mol / 1e3, fit.activation_sd / 1e3
        at = fit.d_cm2_per_s(np.array([330.0]))[0]
        d0 = np.exp(fit.log_d0) * 1e-8
        lines.append(
            f"{front}, law {fit.law}: Q = {q:.1f} +- {Z95 * q_sd:.1f} kJ/mol, "
            f"D(330 degC) = {at:.3g} cm2/s +- {100 * Z95 * fit.log_d_reference_sd:.1f} %, "
            f"D0 = {d0:.2g} cm2/s (x or / {np.exp(Z95 * fit.log_d0_sd):.2f}); misfit "
            f"{fit.misfit:.2f}"
        )
    laws = {fit.law: fit for fit in fits}
    if "fick" in laws and "paper" in laws:
        factor = np.exp(laws["fick"].log_d_reference - laws["paper"].log_d_reference)
        lines.append(
            f"law 'fick' integrates D along the ramp; law 'paper' takes D(T) (T - T0) / rate in "
            f"place of the integral, and so its D is {factor:.1f} times smaller at 330 degC"
        )
    return lines


def write_ramp_nexus(path: Path, result: RampResult) -> None:
    """Write all results as NeXus, which HyperSpy and others open.

    Parameters
    ----------
    path : Path
        A new file.
    result : RampResult
        What is written: groups ``maps``, ``spectra``, ``drift``, ``front`` and one for each law.
    """
    with h5py.File(path, "x") as file:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry")
        entry.attrs["default"] = "maps"
        entry["title"] = f"components and front of {result.front} in {result.source}"
        process = _group(entry, "process", "NXprocess")
        process["program"] = "pyrotome"
        process["doubts"] = "; ".join(result.doubts)
        names = np.array(result.names, h5py.string_dtype())
        _maps(entry, result, names)
        spectra = _data(entry, "spectra", "spectra", ["component", "mass_to_charge"])
        spectra.attrs["interpretation"] = "spectrum"
        spectra["spectra"], spectra["component"] = result.spectra, names
        spectra["mass_to_charge"] = result.mass
        drift = _data(entry, "drift", "shift", ["temperature", "."])
        _with_units(drift, "shift", result.drift_px * result.pixel_um, "um")
        _with_units(drift, "shift_errors", result.drift_sd_px * result.pixel_um, "um")
        _with_units(drift, "temperature", result.temperature_c, "degC")
        if len(result.front_c):
            front = _data(entry, "front", "length", ["temperature", "."])
            _with_units(front, "length", result.length_um, "um")
            _with_units(front, "length_errors", result.length_sd_um, "um")
            _with_units(front, "temperature", result.front_c, "degC")
        for fit in result.fits:
            _law(entry, fit, result.front_c)


def _maps(entry: Any, result: RampResult, names: Any) -> None:
    maps = _data(entry, "maps", "maps", ["temperature", "component", "y", "x"])
    maps.attrs["interpretation"] = "image"
    maps.create_dataset("maps", data=result.maps, compression="gzip", shuffle=True)
    maps["component"] = names
    _with_units(maps, "temperature", result.temperature_c[result.map_frames], "degC")
    for axis, size in (("y", result.maps.shape[2]), ("x", result.maps.shape[3])):
        _with_units(maps, axis, np.arange(size) * result.pixel_um, "um")


def _law(entry: Any, fit: DiffusionFit, front_c: Array) -> None:
    group = _data(entry, f"diffusion_{fit.law.replace('-', '_')}", "d", ["temperature"])
    _with_units(group, "d", fit.d_cm2_per_s(front_c), "cm^2/s")
    _with_units(group, "d_errors", fit.d_cm2_per_s(front_c) * fit.log_d_sd(front_c), "cm^2/s")
    _with_units(group, "temperature", front_c, "degC")
    _with_units(group, "activation_energy", fit.activation_j_per_mol, "J/mol")
    _with_units(group, "activation_energy_errors", fit.activation_sd, "J/mol")
    _with_units(group, "d0", float(np.exp(fit.log_d0)) * 1e-8, "cm^2/s")
    group["log_d0_errors"] = fit.log_d0_sd
    group["covariance"] = fit.covariance
    group["covariance"].attrs["of"] = "ln D at 330 degC (um^2/s), activation energy (J/mol)"
    group["source_level"], group["misfit"] = fit.level, fit.misfit
    group["converged"] = fit.converged
    group["doubts"] = "; ".join(fit.doubts)


def _group(parent: Any, name: str, kind: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    return group


def _data(parent: Any, name: str, signal: str, axes: list[str]) -> Any:
    group = _group(parent, name, "NXdata")
    group.attrs["signal"] = signal
    group.attrs["axes"] = np.array(axes, h5py.string_dtype())
    return group


def _with_units(group: Any, name: str, values: Any, units: str) -> None:
    group[name] = values
    group[name].attrs["units"] = units


def plot_ramp(path: Path, result: RampResult) -> None:
    """Draw maps of the front's component, front lengths, and D over the temperature.

    Parameters
    ----------
    path : Path
        PNG file to write.
    result : RampResult
        What is drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.0, 1.25))
    above, below = parts
    _draw_maps(above, result)
    lengths, arrhenius = below.subplots(1, 2)
    _draw_lengths(lengths, result)
    _draw_diffusion(arrhenius, result)
    figure.savefig(path, dpi=_DPI, format="png")


def _draw_maps(figure: Any, result: RampResult) -> None:
    chosen = np.unique(np.linspace(0, len(result.map_frames) - 1, _PICTURES).round().astype(int))
    component = result.names.index(result.front)
    pictures = result.maps[chosen, component]
    most = float(np.quantile(pictures, 0.995)) or 1.0
    axes = figure.subplots(1, len(chosen), squeeze=False)[0]
    height_um, width_um = (size * result.pixel_um for size in pictures.shape[1:])
    shown: Any = None
    for axis, which, picture in zip(axes, chosen, pictures, strict=True):
        shown = axis.imshow(
            picture, cmap="magma", vmin=0, vmax=most, extent=(0, width_um, height_um, 0)
        )
        temperature = result.temperature_c[result.map_frames[which]]
        axis.set_title(f"{result.front}, {temperature:.0f} °C", fontsize=10)
        axis.set_xlabel("x (µm)")
    axes[0].set_ylabel("y (µm)")
    figure.colorbar(shown, ax=list(axes), label="counts a pixel", shrink=0.9)


def _draw_lengths(axis: Any, result: RampResult) -> None:
    for box in range(result.length_um.shape[1]):
        axis.errorbar(
            result.front_c, result.length_um[:, box], result.length_sd_um[:, box], fmt=".", ms=3,
            lw=0.5, alpha=0.6, label=f"box {box + 1}",
        )  # fmt: skip
    axis.set_xlabel("temperature (°C)")
    axis.set_ylabel("front length L = √(2∫D dt) (µm)")
    if result.length_um.size:
        axis.legend(fontsize=8)
    else:
        axis.text(0.5, 0.5, "the front was not followed", ha="center", transform=axis.transAxes)


def _draw_diffusion(axis: Any, result: RampResult) -> None:
    colours = {"fick": "tab:blue", "fick-free-source": "tab:green", "paper": "tab:red"}
    for fit in result.fits:
        inverse = 1e3 / (result.front_c + 273.15)
        d, spread = fit.d_cm2_per_s(result.front_c), np.exp(Z95 * fit.log_d_sd(result.front_c))
        colour = colours.get(fit.law, "k")
        q, sd = fit.activation_j_per_mol / 1e3, Z95 * fit.activation_sd / 1e3
        axis.plot(inverse, d, color=colour, label=f"{fit.law}: Q = {q:.1f} ± {sd:.1f} kJ/mol")
        axis.fill_between(inverse, d / spread, d * spread, color=colour, alpha=0.25, lw=0)
    axis.set_xlabel("1000 K / T")
    axis.set_ylabel("D (cm²/s), with 95 % band")
    if result.fits:
        axis.set_yscale("log")
        axis.legend(fontsize=8)
