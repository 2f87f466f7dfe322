"""Accuracy and speed of the alignment: a phantom with known shifts, and a measured series.

``python benchmarks/analysis/alignment.py [--data FOLDER] [--picture FILE]``. The phantom is the
specimen of the simulator at the dose of the paper; with `--data` (the folder of measured data) the
needle is aligned as well and its R-factor printed beside that of the shifts that ETSpy found.
`--picture` saves slices through the needle's volume as recorded and aligned. Each bound stands
beside its figure; the time at 256 x 256 is told by part, as it is spent between two series.
"""

import argparse
import math
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from pyrotome.analysis.alignment.align import align_series, iter_align_series
from pyrotome.analysis.alignment.pairwise import OnlineRegistration, register_series
from pyrotome.analysis.alignment.resampling import TiltAxis, apply_alignment
from pyrotome.analysis.alignment.tilt_axis import find_axis
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.reconstruction import r_factor
from pyrotome.simulators.world.copper import Sintering
from pyrotome.simulators.world.haadf import draw_counts, thickness_nm

METHODS = ("phase-correlation", "centre-of-mass", "mutual-information")
RESIDUAL_PX, OFFSET_PX, ROTATION_DEG = 0.5, 0.5, 0.3
WHOLE_S, PIECE_S = 4.0, 0.3
TILTS = np.arange(-40.0, 41.0, 2.0)
SIDE, PIXEL_NM = 1024, 1.04
# 250 electrons per nm2 for the series.
ELECTRONS = 250.0 / TILTS.size * PIXEL_NM**2
NEEDLE_NM = 3.36
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def phantom(seed, axis, largest_px=20.0):
    """Counts (angles, rows, columns) and the random shifts that are in them."""
    truth = Sintering(36, seed).truth(20.0)
    rng = np.random.default_rng([seed, 1])
    shifts = rng.uniform(-largest_px, largest_px, (TILTS.size, 2))
    turn = math.radians(axis.rotation_deg)
    images = []
    for tilt, shift in zip(np.deg2rad(TILTS), shifts, strict=True):
        x, y, z = truth.centres_nm.T
        across = x * np.cos(tilt) + z * np.sin(tilt) + axis.offset_px * PIXEL_NM
        # The renderer's tilt axis is upright; here the tilted specimen is turned in the image.
        column = across * math.cos(turn) - y * math.sin(turn)
        row = across * math.sin(turn) + y * math.cos(turn)
        seen = np.column_stack([column, row, z * np.cos(tilt) - x * np.sin(tilt)])
        moved = replace(truth, centres_nm=seen)
        frame = thickness_nm(moved, (SIDE, SIDE), PIXEL_NM, 0.0, tuple(shift * PIXEL_NM))
        images.append(draw_counts(frame, np.full(SIDE, ELECTRONS, np.float32), rng))
    return np.stack(images), shifts


def moves(shifts, axis):
    """Displacement of every image in the specimen's frame: along the axis and across."""
    turn = math.radians(axis.rotation_deg)
    along = shifts[:, 0] * math.cos(turn) - shifts[:, 1] * math.sin(turn)
    across = shifts[:, 1] * math.cos(turn) + shifts[:, 0] * math.sin(turn) + axis.offset_px
    return np.column_stack([along, across])


def errors(shifts, axis, true_shifts, true_axis):
    """Residual (rms, px) that no displacement of the specimen explains; error of the offset."""
    wrong = moves(shifts, axis) - moves(true_shifts, true_axis)
    wrong[:, 0] -= wrong[:, 0].mean()
    tilt = np.deg2rad(TILTS)
    terms = np.column_stack([np.cos(tilt), np.sin(tilt), np.ones_like(tilt)])
    offset = np.linalg.lstsq(terms, wrong[:, 1])[0][2]
    displaced = terms[:, :2] @ np.linalg.lstsq(terms[:, :2], wrong[:, 1])[0]
    wrong[:, 1] -= displaced
    return math.sqrt((wrong**2).sum(axis=1).mean()), offset


def verdict(*within):
    """Word beside a figure and its bound."""
    return "ok" if all(within) else "MISSED"


def show_phantom(seed, axis):
    """Print what each method leaves of the known shifts; returns images and shifts."""
    images, shifts = phantom(seed, axis)
    print(f"Cu phantom {seed}, {TILTS.size} frames of {SIDE} x {SIDE} at 250 e/nm2, shifts up to")
    print(f"  20 px, axis at {axis.offset_px:g} px and {axis.rotation_deg:g} deg; in these pixels")
    print("  method              neighbours only   residual     offset     rotation     time")
    bounds = f"<= {RESIDUAL_PX} px  +-{OFFSET_PX} px   +-{ROTATION_DEG} deg"
    print(f"  {'bound':37s} {bounds}")
    for method in METHODS:
        registered = register_series(images, TILTS, method)
        alone, _ = errors(registered, TiltAxis(), shifts, axis)
        begin = time.perf_counter()
        found = align_series(images, TILTS, method)
        took_s = time.perf_counter() - begin
        rms, offset = errors(found.shifts_px, found.axis, shifts, axis)
        turn = found.rotation_deg - axis.rotation_deg
        within = rms <= RESIDUAL_PX, abs(offset) <= OFFSET_PX, abs(turn) <= ROTATION_DEG
        print(
            f"  {method:20s} {alone:11.2f} px {rms:9.3f} px {offset:+8.2f} px {turn:+8.3f} deg"
            f" {took_s:6.1f} s  {verdict(*within)}",
            flush=True,
        )
    still = apply_alignment(images, shifts, TiltAxis())
    begin = time.perf_counter()
    alone = find_axis(still, TILTS)
    offset, turn = alone.offset_px - axis.offset_px, alone.rotation_deg - axis.rotation_deg
    within = abs(offset) <= OFFSET_PX, abs(turn) <= ROTATION_DEG
    print(
        f"  axis alone, true shifts {offset:+29.2f} px {turn:+8.3f} deg"
        f" {time.perf_counter() - begin:6.1f} s  {verdict(*within)}",
        flush=True,
    )
    return images, shifts


def show_times(images, shifts, axis, side):
    """Print where the time goes with images binned to `side`, as online."""
    binning = SIDE // side
    shape = (TILTS.size, side, binning, side, binning)
    small = images.reshape(shape).mean(axis=(2, 4), dtype=np.float32)
    print(
        f"  binned to {side} x {side} before; bounds: {WHOLE_S:g} s in all, {PIECE_S:g} s a piece"
    )
    for method in METHODS:
        registration, longest = OnlineRegistration(method), 0.0
        begin = time.perf_counter()
        for number, tilt in enumerate(TILTS):
            before = time.perf_counter()
            registration.add(number, tilt, small[number])
            longest = max(longest, time.perf_counter() - before)
        arrived_s = time.perf_counter() - begin
        begin = time.perf_counter()
        register_series(small, TILTS, method)
        register_s = time.perf_counter() - begin
        spent = []
        begin = before = time.perf_counter()
        pieces = iter_align_series(
            small, TILTS, method, pair_shifts=registration.pair_shifts(range(TILTS.size))
        )
        while True:
            try:
                fraction = next(pieces)
            except StopIteration as end:
                found = end.value
                break
            spent.append((fraction, time.perf_counter() - before))
            before = time.perf_counter()
        rest_s = before - begin
        warp_s = sum(took for fraction, took in spent if fraction > 0.9)
        whole_s, piece_s = register_s + rest_s, max(took for _, took in spent)
        full = TiltAxis(found.axis_offset_px * binning, found.rotation_deg)
        rms, _ = errors(found.shifts_px * binning, full, shifts, axis)
        print(
            f"  {method:20s} registration {register_s:4.1f} s ({1e3 * arrived_s / TILTS.size:3.0f}"
            f" ms, at most {1e3 * longest:3.0f} ms, a view as it arrives), refinement"
            f" {rest_s - warp_s:4.1f} s, interpolation {warp_s:4.2f} s,\n"
            f"  {'':20s} in all {whole_s:4.1f} s, longest piece {piece_s:4.2f} s, residual"
            f" {rms:.3f} px  {verdict(whole_s <= WHOLE_S, piece_s <= PIECE_S, rms <= RESIDUAL_PX)}",
            flush=True,
        )


def needle(folder):
    """Images with the tilt axis down the columns, angles, and ETSpy's shifts in our convention."""
    import mrcfile

    with warnings.catch_warnings():
        # The header is an old one.
        warnings.simplefilter("ignore")
        with mrcfile.open(folder / "HAADF.mrc", permissive=True) as file:
            recorded = np.asarray(file.data, np.float32)
    images = np.ascontiguousarray(recorded.transpose(0, 2, 1)) - np.percentile(recorded, 5)
    shifts = -np.load(folder / "reference_shifts_px.npy")[:, ::-1]
    return images, np.loadtxt(folder / "HAADF.rawtlt"), shifts


def show_needle(folder, picture):
    """Print the R-factors of the needle, and save slices of its volume."""
    images, tilts, reference = needle(folder)
    print(f"Needle, {len(images)} images of 256 x 256; R-factor of 50 iterations of SIRT")

    def figure(aligned):
        made = sirt(aligned, tilts, 50)
        return r_factor(made.volume, aligned, tilts), made.volume

    recorded, before = figure(images)
    print(f"  as recorded                          {recorded:.4f}")
    trials = {c: figure(apply_alignment(images, reference, TiltAxis(c, -2.79)))[0]
              for c in (2.0, 2.5, 3.0, 3.5, 4.0)}  # fmt: skip
    best = min(trials, key=trials.__getitem__)
    print(
        f"  ETSpy's shifts, -2.79 deg, best offset {trials[best]:.4f} (at {best:g} px): the bound"
    )
    for method in METHODS:
        begin = time.perf_counter()
        found = align_series(images, tilts, method)
        took_s = time.perf_counter() - begin
        value, volume = figure(found.images)
        print(
            f"  {method:36s} {value:.4f}, rotation {found.rotation_deg:.2f} deg, {took_s:.1f} s"
            f"  {verdict(value <= trials[best])}",
            flush=True,
        )
    if picture is not None:
        draw(before, volume, f"R = {recorded:.3f}", f"R = {value:.3f}", trials[best], picture)
        print(f"  slices in {picture}")


def draw(before, after, word_before, word_after, reference, path):
    """Save three slices each of two volumes (y, z, x): as recorded above, aligned below."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    # Through the middle of the mass, and where the needle has its layers.
    weights = [after.sum(axis=others) for others in ((1, 2), (0, 2), (0, 1))]
    y, z, x = (round(float((w * np.arange(w.size)).sum() / w.sum())) for w in weights)
    # The needle and a bit: along the axis, and around it.
    half, first, last = 62, 48, 226
    across = np.s_[z - half : z + half, x - half : x + half]
    nm = NEEDLE_NM
    size, tall = 2 * half * nm, (last - first) * nm
    figure, axes = plt.subplots(
        2, 3, figsize=(8.4, 8.2), layout="constrained", facecolor="black",
        gridspec_kw={"width_ratios": [1, 1, 1]},
    )  # fmt: skip
    top = float(np.percentile(after, 99.9))
    titles = (
        f"across the needle, y = {y * nm:.0f} nm",
        "along it, seen in z",
        "along it, seen in x",
    )
    for row, (volume, name, word) in enumerate(
        ((before, "as recorded", word_before), (after, "aligned", word_after))
    ):
        cuts = (
            volume[y][across],
            volume[first:last, z, x - half : x + half],
            volume[first:last, z - half : z + half, x],
        )
        for panel, cut, title in zip(axes[row], cuts, titles, strict=True):
            high = size if cut.shape[0] == cut.shape[1] else tall
            panel.imshow(
                cut, cmap="inferno", vmin=0, vmax=top, extent=(0, size, high, 0),
                interpolation="bilinear",
            )  # fmt: skip
            panel.set_xticks([])
            panel.set_yticks([])
            panel.set_frame_on(False)
            if row == 0:
                panel.set_title(title, color="0.8", fontsize=9)
            panel.plot([14, 114], [high - 18] * 2, color="white", linewidth=3)
            panel.text(64, high - 26, "100 nm", color="white", ha="center", fontsize=8)
        axes[row, 0].text(
            0.02, 0.97, f"{name}\n{word}", color="white", fontsize=12, va="top",
            transform=axes[row, 0].transAxes,
        )  # fmt: skip
    figure.suptitle(
        "Needle, HAADF, 77 tilts: SIRT of 50 iterations before and after the alignment\n"
        f"(R-factor of the reprojections; with the shifts of ETSpy {reference:.3f})",
        color="white", fontsize=11,
    )  # fmt: skip
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main():
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of measured data")
    parser.add_argument("--picture", type=Path, help="save slices of the needle's volume there")
    given = parser.parse_args()
    warm = np.random.default_rng(0).random((5, 32, 32), np.float32)
    align_series(warm, TILTS[:5], "phase-correlation", rounds=2)  # compile
    show_phantom(0, TiltAxis(6.5, 1.2))
    axis = TiltAxis(-5.0, -1.0)
    images, shifts = show_phantom(1, axis)
    for side in (256, 128):
        show_times(images, shifts, axis, side)
    folder = given.data / "needle_haadf"
    if folder.is_dir():
        show_needle(folder, given.picture)
    else:
        print("the needle's data are absent (--data FOLDER); skipped")


if __name__ == "__main__":
    main()
