"""Speed and PSNR of our BM3D beside the `bm3d` package's, on the same frames in the same run.

``python benchmarks/denoising.py [--quick]``; `--quick` cuts the large frames to 256 x 256. Frames
are the simulated specimen at the paper's dose, and, where ../shared/data lies beside the checkout,
views of a multislice tilt series. Both methods get the same input and the same noise.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np

from pyrotome.analysis.denoise import (
    denoise_bm3d,
    denoise_fast,
    load_bm3d,
    noise_spectrum,
    warm_up,
)
from pyrotome.analysis.fast_bm3d import fast_bm3d
from pyrotome.analysis.stabilise import restore, stabilise
from pyrotome.analysis.tune import tune
from pyrotome.simulators.rendering import draw_counts, expected_fraction, thickness_nm
from pyrotome.simulators.sintering import Sintering

PIXEL_NM = 1.04
# 2 pA for 500 ns at each pixel of 1.04 nm.
ELECTRONS = 2e-12 * 500e-9 / 1.602177e-19
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "asi_multislice"


def psnr_db(image, truth):
    return 10 * np.log10(truth.max() ** 2 / np.mean((image - truth) ** 2))


def specimen(side, frames=1):
    """Counts of the specimen and what they should be, cut around its middle."""
    thickness = thickness_nm(Sintering(36, 1).truth(10.0), (side, side), PIXEL_NM, 0.0)
    electrons = np.full(side, ELECTRONS, np.float32)
    rng = np.random.default_rng(1)
    counts = np.stack([draw_counts(thickness, electrons, rng) for _ in range(frames)])
    return counts, ELECTRONS * expected_fraction(thickness)


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare(title, frame, truth, noise, back=lambda image: image):
    """Print both methods' time and PSNR after `back`; give the difference of PSNR."""
    peak = float(frame.max())
    unit = noise / peak if np.isscalar(noise) else noise / peak**2
    ours_s, ours = min((timed(lambda: fast_bm3d(frame, noise)) for _ in range(2)), key=first)
    peer_s, peer = timed(lambda: load_bm3d()(frame / peak, unit, profile="np") * peak)
    ours_db, peer_db = psnr_db(back(ours), truth), psnr_db(back(peer), truth)
    print(
        f"  {title:34s} noisy {psnr_db(back(frame), truth):6.2f} dB | "
        f"pyrotome {ours_s:6.2f} s {ours_db:6.2f} dB | "
        f"bm3d {peer_s:6.2f} s {peer_db:6.2f} dB | "
        f"{peer_s / ours_s:5.1f} x, {ours_db - peer_db:+.2f} dB",
        flush=True,
    )
    return ours_db - peer_db


def first(pair):
    return pair[0]


def on_specimen(side):
    frames, truth = specimen(side)
    counts = frames[0].astype(np.float64)
    print(f"Cu specimen, {side} x {side}, {counts.mean():.2f} counts a pixel")
    compare("counts, white", counts, truth, float(np.sqrt(counts.mean())))
    compare("stabilised, white", stabilise(counts), truth, 1.0, restore)
    compare("counts, g4", counts, truth, noise_spectrum("g4", counts.mean(), counts.shape))
    online_s, (cleaned, _) = timed(lambda: denoise_fast(frames[0]))
    print(f"  as online (fast, white, auto): {online_s:.2f} s, {psnr_db(cleaned, truth):.2f} dB")


def on_multislice(views=(0, 15, 30, 45)):
    if not SHARED.is_dir():
        print(f"{SHARED} is absent: no multislice frames")
        return
    low = np.load(SHARED / "asi_2nm_dose_8p0e3.npz")["counts"]
    high = np.load(SHARED / "asi_2nm_dose_1p6e5.npz")["counts"]
    print(f"amorphous Si, multislice, {low.shape[1]} x {low.shape[2]}, 8.0e3 e/A^2")
    gains_db = []
    for view in views:
        # One count a pixel is a pedestal: noise comes with it, signal does not.
        counts, truth = low[view].astype(np.float64), (high[view] - 1.0) / 20
        sigma = float(np.sqrt(counts.mean()))
        gains_db.append(
            (
                compare(f"view {view}, counts", counts, truth, sigma, lambda image: image - 1),
                compare(
                    f"view {view}, stabilised", stabilise(counts), truth, 1.0,
                    lambda image: restore(image) - 1,
                ),
            )
        )  # fmt: skip
    direct_db, stabilised_db = np.mean(gains_db, axis=0)
    print(f"  mean difference: counts {direct_db:+.2f} dB, stabilised {stabilised_db:+.2f} dB")


def on_tuning(side=256):
    frames, truth = specimen(side, 50)
    seconds, choice = timed(lambda: tune(frames))
    print(f"tuning with {len(frames)} frames of {side} x {side}: {seconds:.1f} s")
    for noise in dict.fromkeys(trial.noise for trial in choice.trials):
        tried = [t for t in choice.trials if t.noise == noise and t.variance != "auto"]
        best = max(tried, key=lambda trial: trial.psnr_db)
        print(f"  {noise:6s} best at variance {best.variance:8.1f}: {best.psnr_db:.2f} dB")
    print(f"  choice: {choice.noise}, {choice.variance}: {choice.psnr_db:.2f} dB")
    peer, _ = denoise_bm3d(frames[0], "g4", 137.0)
    ours, _ = denoise_fast(frames[0], choice.noise, choice.variance)
    print(
        f"  against the truth: {psnr_db(ours, truth):.2f} dB; "
        f"package with the paper's g4, 137: {psnr_db(peer, truth):.2f} dB"
    )


def main():
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="256 x 256 instead of 1024 x 1024")
    quick = parser.parse_args().quick
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores")
    print(f"compiling, or reading what is compiled: {timed(lambda: warm_up('fast'))[0]:.1f} s")
    load_bm3d()
    on_specimen(256 if quick else 1024)
    on_multislice()
    on_tuning()


if __name__ == "__main__":
    main()
