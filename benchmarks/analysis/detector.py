"""Time that the correction of counts adds to a frame, beside denoising and a median filter.

``python benchmarks/analysis/detector.py [--quick]``; `--quick` leaves the full effort out. Frames
of 1024 x 1024 with 20 hits each and a stuck pixel; the peer is what is usually done against hits:
`scipy.ndimage.median_filter` of 3 x 3 pixels.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy.ndimage import median_filter

from pyrotome.analysis.denoise.frame import denoise_fast, warm_up
from pyrotome.analysis.detector.correction import CountCorrection

SIDE, FRAMES, HITS = 1024, 12, 20
# What the correction may cost of the time of denoising.
SHARE = 0.03


def frames() -> np.ndarray:
    """Balls before vacuum, Poisson counts, hits of twenty times the maximum."""
    random = np.random.default_rng(0)
    rows, columns = np.indices((SIDE, SIDE))
    away = (rows % 128 - 64) ** 2 + (columns % 128 - 64) ** 2
    mean = np.sqrt(np.maximum(40.0**2 - away, 0)) * 15 + 20
    stack = random.poisson(mean, (FRAMES, SIDE, SIDE)).astype(np.float32)
    for image in stack:
        places = random.integers(0, SIDE, (HITS, 2))
        image[tuple(places.T)] = 20 * 620
    stack[:, 300, 400] = 65535
    return stack


def fastest_s(work: Callable[[], object], times: int) -> float:
    """Shortest of some times."""
    spent: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)


def main() -> None:
    """Print the table; exit code 1 if the correction costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    stack = frames()
    warm_up("fast")
    CountCorrection((SIDE, SIDE)).correct(stack[0])
    correction, spent = CountCorrection((SIDE, SIDE)), []
    for frame in stack:
        began = time.perf_counter()
        correction.correct(frame)
        spent.append(time.perf_counter() - began)
    first, later = spent[0], float(np.median(spent[1:]))
    mean = (first + later * (FRAMES - 1)) / FRAMES
    peer = fastest_s(lambda: median_filter(stack[0], 3), 3)
    print(f"{SIDE} x {SIDE}, ms a frame: first {first * 1e3:.1f}, later {later * 1e3:.1f}")
    print(f"median_filter 3 x 3 (scipy): {peer * 1e3:.1f}")
    quick = fastest_s(lambda: denoise_fast(stack[0], effort="quick"), 2)
    efforts = {"quick": quick}
    if not options.quick:
        efforts["full"] = fastest_s(lambda: denoise_fast(stack[0]), 2)
    for effort, time_s in efforts.items():
        share = mean / (time_s + mean)
        print(f"denoise fast, effort {effort}: {time_s * 1e3:.0f}; the correction is {share:.2%}")
    if mean > SHARE * quick:
        sys.exit(f"the correction costs more than {SHARE:.0%} of the quick effort")


if __name__ == "__main__":
    main()
