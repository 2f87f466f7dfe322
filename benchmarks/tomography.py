"""Speed of denoising and reconstruction, each beside its peer on the same data in the same run.

``python benchmarks/tomography.py [--full]``; `--full` adds BM3D of a frame of 1024 x 1024. The
peer of SIRT is the ASTRA toolbox's on the CPU (`pip install astra-toolbox`); without it, only our
own figure is printed.
"""

import argparse
import os
import platform
import time

import numpy as np

from pyrotome.analysis.denoise import denoise_bm3d, load_bm3d
from pyrotome.analysis.project import LANES, backproject, project
from pyrotome.analysis.reconstruct import binned, sirt

TILTS = np.arange(-40.0, 41.0, 2.0)


def phantom(side, slices, seed=0):
    """Volume of spheres on a plane, as the specimen of the paper; axes (y, z, x)."""
    rng = np.random.default_rng(seed)
    y, z, x = np.ogrid[:slices, :side, :side]
    volume = np.zeros((slices, side, side), np.float32)
    for _ in range(30):
        centre = rng.random(3) * (slices, side * 0.2, side * 0.8) + (0, side * 0.4, side * 0.1)
        radius = side * rng.uniform(0.03, 0.07)
        inside = (y - centre[0]) ** 2 + (z - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2
        volume[inside] = 1.0
    return volume


def best_of(repeats, work):
    """Shortest wall time, least time of all cores together, and the last result."""
    walls, cores = [], []
    for _ in range(repeats):
        wall_s, core_s = time.perf_counter(), time.process_time()
        result = work()
        walls.append(time.perf_counter() - wall_s)
        cores.append(time.process_time() - core_s)
    return min(walls), min(cores), result


def astra_sirt(sinogram, side, iterations):
    """One slice by ASTRA's CPU SIRT with its linear (Joseph) projector, x >= 0."""
    import astra

    volume_geometry = astra.create_vol_geom(side, side)
    # ASTRA's second axis points up, ours down.
    angles = -np.deg2rad(TILTS)
    geometry = astra.create_proj_geom("parallel", 1.0, side, angles)
    projector = astra.create_projector("linear", geometry, volume_geometry)
    measured = astra.data2d.create("-sino", geometry, sinogram)
    volume = astra.data2d.create("-vol", volume_geometry, 0)
    settings = astra.astra_dict("SIRT")
    settings |= {
        "ProjectorId": projector,
        "ProjectionDataId": measured,
        "ReconstructionDataId": volume,
        "option": {"MinConstraint": 0.0},
    }
    algorithm = astra.algorithm.create(settings)
    wall_s, core_s, _ = best_of(1, lambda: astra.algorithm.run(algorithm, iterations))
    made = astra.data2d.get(volume)
    astra.algorithm.delete(algorithm)
    astra.projector.delete(projector)
    astra.data2d.delete([measured, volume])
    return wall_s, core_s, made


def compare_sirt(side, slices, iterations):
    """Print time per slice of SIRT, ours and ASTRA's, and how far the slices differ."""
    images = project(phantom(side, slices), TILTS)
    ours_s, ours_core_s, made = best_of(2, lambda: sirt(images, TILTS, iterations))
    print(f"SIRT, {side} px, {TILTS.size} tilts, {iterations} iterations; ms a slice:  wall  cores")
    print(f"  pyrotome, {slices} slices at once {figures(ours_s / slices, ours_core_s / slices)}")
    y = slices // 2
    try:
        import astra
    except ImportError:
        print("  ASTRA is not installed (pip install astra-toolbox)")
        return
    sinogram = np.ascontiguousarray(images[:, y])
    runs = [astra_sirt(sinogram, side, iterations) for _ in range(2)]
    astra_s, astra_core_s = min(r[0] for r in runs), min(r[1] for r in runs)
    theirs = runs[0][2]
    difference = np.linalg.norm(made.volume[y] - theirs) / np.linalg.norm(theirs)
    print(f"  ASTRA {astra.__version__} 'linear', one slice {figures(astra_s, astra_core_s)}")
    print(f"  faster by {astra_s * slices / ours_s:.0f} x in wall time, by ", end="")
    print(f"{astra_core_s * slices / ours_core_s:.0f} x a core; slices differ by {difference:.1e}")


def figures(wall_s, core_s):
    """Two columns, milliseconds."""
    return f"{wall_s * 1e3:10.2f} {core_s * 1e3:10.2f}"


def time_projector(side, slices):
    """Print the time of one projection and one back-projection of many slices."""
    volume = phantom(side, slices)
    forward_s, _, images = best_of(2, lambda: project(volume, TILTS))
    backward_s, *_ = best_of(2, lambda: backproject(images, TILTS))
    print(f"projector, {side} px, {slices} slices, {TILTS.size} tilts, layout changes included")
    print(
        f"  forward {forward_s / slices * 1e3:.2f} ms, adjoint {backward_s / slices * 1e3:.2f} ms"
    )


def time_preview(iterations=30, binning=4):
    """Print what the online preview of one series takes, from full frames to the volume."""
    side = 1024
    images = project(phantom(side // binning, side // binning), TILTS)
    rng = np.random.default_rng(1)
    frames = [
        rng.poisson(np.kron(i, np.ones((binning, binning)))).astype(np.uint16) for i in images
    ]
    binning_s, _, small = best_of(1, lambda: np.stack([binned(f, binning) for f in frames]))
    sirt_s, _, made = best_of(2, lambda: sirt(small, TILTS, iterations))
    print(f"preview of {len(frames)} frames of {side} x {side}, binned by {binning}")
    print(f"  binning {binning_s:.2f} s while frames arrive, then {iterations} iterations of SIRT")
    print(f"  to {' x '.join(map(str, made.volume.shape))}: {sirt_s:.2f} s")


def time_bm3d(side):
    """Print the time of BM3D through us and called directly."""
    rng = np.random.default_rng(2)
    frame = rng.poisson(20 * phantom(side, 1)[0] + 3).astype(np.uint16)
    bm3d = load_bm3d()
    direct_s, *_ = best_of(2, lambda: bm3d(frame / frame.max(), np.sqrt(137) / 255))
    ours_s, *_ = best_of(2, lambda: denoise_bm3d(frame, "white", 137.0))
    pink_s, *_ = best_of(2, lambda: denoise_bm3d(frame, "g4", 137.0))
    print(f"BM3D, {side} x {side}, variance 137")
    print(f"  package called directly {direct_s:.2f} s, pyrotome {ours_s:.2f} s, g4 {pink_s:.2f} s")


def main():
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="with BM3D of 1024 x 1024 (minutes)")
    full = parser.parse_args().full
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.processor() or platform.machine()}, {cores} cores, {LANES} slices a block")
    sirt(np.ones((2, 1, 8)), np.array([0.0, 80.0]), 1)  # compile
    time_projector(512, 64)
    compare_sirt(512, 64, 10)
    compare_sirt(256, 64, 30)
    time_preview()
    time_bm3d(256)
    if full:
        time_bm3d(1024)


if __name__ == "__main__":
    main()
