"""Draw what a run file holds: ``python draw_run.py demo.nxs demo.png``.

Temperature and tilt series against time, one frame of each series, its denoised version and its
volume. Reads the file with h5py alone, as any program could.
"""

import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (lets h5py read the compressed frames)
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(source: Path, target: Path) -> None:
    """Write a PNG of one run."""
    with h5py.File(source, "r") as file:
        names = sorted(name for name in file if name.startswith("series_"))[:6]
        title = file["entry/title"].asstr()[()]
        heater = file["entry/telemetry/heater/temperature_c"]
        time, temperature = heater["time"][()], heater["value"][()]
        figure = plt.figure(figsize=(3 * max(3, len(names)), 9), layout="constrained")
        rows = figure.subfigures(2, 1, height_ratios=[1, 2.4])
        axes = rows[0].subplots()
        axes.plot(time, temperature, color="#c2410c", lw=1)
        axes.set(xlabel="time / s", ylabel="temperature / °C", title=title)
        for name in names:
            taken = file[f"{name}/frames/time"][()]
            axes.axvspan(np.nanmin(taken), np.nanmax(taken), color="#0ea5e9", alpha=0.2, lw=0)
        grid = rows[1].subplots(3, len(names), squeeze=False)
        for column, name in enumerate(names):
            tilt = file[f"{name}/sample/rotation_angle"][()]
            nearest = int(np.nanargmin(np.abs(tilt)))
            frame = file[f"{name}/instrument/detector/data"][nearest]
            _show(grid[0, column], frame, f"{name}, {tilt[nearest]:+.0f}°")
            denoised, volume = _result(file[name], "denoised"), _result(file[name], "volume")
            if denoised is not None:
                _show(grid[1, column], denoised[nearest], "denoised")
            if volume is not None:
                # Volume axes are (y, z, x): seen along the beam, the brightest of each ray.
                _show(grid[2, column], volume[()].max(axis=1), "volume, brightest along z")
        for empty in grid.flat:
            empty.set_axis_off()
        figure.savefig(target, dpi=80)
    print(f"drew {target}")


def _result(series: h5py.Group, name: str) -> h5py.Dataset | None:
    """The dataset of one result of the analysis, whichever process made it."""
    for group in series:
        if group.startswith("process_") and name in series[group]:
            return series[group][name]["data"]
    return None


def _show(axes: plt.Axes, image: np.ndarray, title: str) -> None:
    low, high = np.percentile(image, [0.5, 99.8])
    axes.imshow(image, cmap="inferno", vmin=low, vmax=max(high, low + 1e-6))
    axes.set_title(title, fontsize=9)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
