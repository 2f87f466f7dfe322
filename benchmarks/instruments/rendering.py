"""How fast the simulator renders: python benchmarks/instruments/rendering.py."""

from __future__ import annotations

import time

import numpy as np

from pyrotome.simulators.world.copper import Sintering
from pyrotome.simulators.world.haadf import draw_counts, thickness_nm

FIELD_NM = 1064.96
ELECTRONS_PER_NM2 = 5.771
SECONDS = 3.0


def frames_per_s(size: int) -> tuple[float, float, float]:
    """Frames in a second on one core, and the milliseconds of thickness and of Poisson counts."""
    specimen = Sintering(36, 1)
    pixel_nm = FIELD_NM / size
    electrons = np.full(size, ELECTRONS_PER_NM2 * pixel_nm**2, np.float32)
    rng = np.random.default_rng(1)
    draw_counts(thickness_nm(specimen.truth(0.0), (8, 8), 100.0, 0.0), electrons[:8], rng)
    frames, thickness_s, counts_s = 0, 0.0, 0.0
    while thickness_s + counts_s < SECONDS:
        tilt_deg = -40.0 + 2.0 * (frames % 41)
        start = time.perf_counter()
        thickness = thickness_nm(specimen.truth(10.0), (size, size), pixel_nm, tilt_deg)
        between = time.perf_counter()
        draw_counts(thickness, electrons, rng)
        counts_s += time.perf_counter() - between
        thickness_s += between - start
        frames += 1
    total = thickness_s + counts_s
    return frames / total, 1e3 * thickness_s / frames, 1e3 * counts_s / frames


def main() -> None:
    """Print one line for each frame size."""
    print("simulator: 36 particles, tilts -40 to +40 deg, dose of 2 pA and 500 ns at 1.04 nm")
    for size in (256, 1024):
        rate, thickness_ms, counts_ms = frames_per_s(size)
        print(
            f"{size:5d} x {size:<5d} {rate:8.1f} frames/s on one core "
            f"(thickness {thickness_ms:.1f} ms, counts {counts_ms:.1f} ms)"
        )


if __name__ == "__main__":
    main()
