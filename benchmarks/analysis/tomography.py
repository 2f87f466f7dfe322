"""Speed and exactness of projector and SIRT, beside their peer on the same data in the same run.

``python benchmarks/analysis/tomography.py``. The peer is the SIRT of the ASTRA toolbox on the CPU,
with its projector `linear` (`pip install astra-toolbox`); without it, only our own figures are
printed.
"""

import argparse
import os
import platform
import time

import numpy as np

from pyrotome.analysis.core.arrays import binned, in_threads, zeros
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.projector import LANES, Geometry, backproject, project

TILTS = np.arange(-40.0, 41.0, 2.0)
# What is asked: so many times faster a slice, residuals and adjoint that agree to so much.
FASTER = 30.0
RESIDUALS_PERCENT = 1.0
ADJOINT = 1e-5


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


def met(figure_is_good):
    return "met" if figure_is_good else "MISSED"


class Astra:
    """One slice in ASTRA, with its linear (Joseph) projector on the CPU."""

    def __init__(self, astra, side, tilt_deg):
        self.astra = astra
        self.volume_geometry = astra.create_vol_geom(side, side)
        # ASTRA's second axis points up, ours down.
        angles = -np.deg2rad(tilt_deg)
        self.geometry = astra.create_proj_geom("parallel", 1.0, side, angles)
        self.projector = astra.create_projector("linear", self.geometry, self.volume_geometry)

    def sirt(self, sinogram, iterations, pieces):
        """Best time of an iteration, wall and cores, among equal pieces of a run; and the slice."""
        measured = self.astra.data2d.create("-sino", self.geometry, sinogram)
        volume = self.astra.data2d.create("-vol", self.volume_geometry, 0)
        settings = self.astra.astra_dict("SIRT")
        settings |= {
            "ProjectorId": self.projector,
            "ProjectionDataId": measured,
            "ReconstructionDataId": volume,
            "option": {"MinConstraint": 0.0},
        }
        algorithm = self.astra.algorithm.create(settings)
        turns = iterations // pieces
        wall_s, core_s, _ = best_of(pieces, lambda: self.astra.algorithm.run(algorithm, turns))
        made = self.astra.data2d.get(volume)
        self.astra.algorithm.delete(algorithm)
        self.astra.data2d.delete([measured, volume])
        return wall_s / turns, core_s / turns, made

    def project(self, image):
        number, made = self.astra.create_sino(np.asarray(image, np.float32), self.projector)
        self.astra.data2d.delete(number)
        return made


def residual(sinogram, projections):
    """Norm of the difference over that of the measurement."""
    return float(np.linalg.norm(sinogram - projections) / np.linalg.norm(sinogram))


def compare_sirt(side=512, slices=2 * LANES, iterations=50):
    """Print time of an iteration per slice, ours and ASTRA's, and the residuals of both results."""
    images = project(phantom(side, slices), TILTS)
    print(
        f"SIRT, {side} px, {TILTS.size} tilts; ms for an iteration of a slice:    wall  all cores"
    )
    short_s, short_core_s, _ = best_of(6, lambda: sirt(images, TILTS, 10))
    long_s, long_core_s, made = best_of(1, lambda: sirt(images, TILTS, iterations))
    ours_s = min(short_s / 10, long_s / iterations) / slices
    ours_core_s = min(short_core_s / 10, long_core_s / iterations) / slices
    print(f"  pyrotome, {slices} slices at once, set-up included  {figures(ours_s, ours_core_s)}")
    try:
        import astra
    except ImportError:
        print("  ASTRA is not installed (pip install astra-toolbox)")
        return
    peer = Astra(astra, side, TILTS)
    y = slices // 2
    sinogram = np.ascontiguousarray(images[:, y])
    astra_s, astra_core_s, theirs = peer.sirt(sinogram, iterations, 10)
    print(f"  ASTRA {astra.__version__} 'linear', one slice               ", end="")
    print(figures(astra_s, astra_core_s))
    ratio = astra_s / ours_s
    print(
        f"  faster by {ratio:.0f} x in wall time (bound {FASTER:.0f} x: {met(ratio >= FASTER)})",
        end="",
    )
    print(f", by {astra_core_s / ours_core_s:.0f} x a core")
    ours = made.volume[y]
    print(
        f"  |b - P x| / |b| after {iterations} iterations, b without noise:  ours     ASTRA's   ",
        end="",
    )
    print("differ by")
    for name, forward in (
        ("our P", lambda image: project(image[None], TILTS)[:, 0]),
        ("ASTRA's P", peer.project),
    ):
        of_ours, of_theirs = (residual(sinogram, forward(image)) for image in (ours, theirs))
        percent = 100 * abs(of_ours - of_theirs) / of_theirs
        print(f"    with {name:10s} {of_ours:38.6f} {of_theirs:11.6f} {percent:9.4f} %", end="")
        print(f"   bound {RESIDUALS_PERCENT:.0f} %: {met(percent <= RESIDUALS_PERCENT)}")
    theirs_of_ours = peer.project(ours)
    apart = residual(theirs_of_ours, project(ours[None], TILTS)[:, 0])
    print(f"  the two P of one slice differ by {apart:.1e}, the two slices by ", end="")
    print(f"{np.linalg.norm(ours - theirs) / np.linalg.norm(theirs):.1e}")


def check_adjoint():
    """Print |<P x, y> - <x, P^T y>| / |<P x, y>| of random numbers, for even and odd sizes."""
    print("adjoint, |<P x, y> - <x, P^T y>| / |<P x, y>|, uniform random numbers, +-90 deg")
    rng = np.random.default_rng(3)
    worst = 0.0
    for slices, height, width, detector, angles in (
        (1, 1, 1, 1, 3), (3, 7, 5, 9, 5), (33, 65, 127, 101, 41), (2, 255, 301, 333, 41),
        (32, 512, 512, 512, 41), (1, 1023, 1025, 1024, 11),
    ):  # fmt: skip
        tilts = rng.uniform(-90, 90, angles)
        volume = rng.random((slices, height, width), np.float32)
        images = rng.random((angles, slices, detector), np.float32)
        forward = np.vdot(project(volume, tilts, detector).astype(np.float64), images)
        backward = np.vdot(volume.astype(np.float64), backproject(images, tilts, (height, width)))
        error = abs(forward - backward) / abs(forward)
        worst = max(worst, error)
        sizes = f"{slices} x {height} x {width}, detector {detector}, {angles} angles"
        print(f"  {sizes:48s} {error:.1e}")
    print(f"  worst {worst:.1e} (bound {ADJOINT:.0e}: {met(worst <= ADJOINT)})")


def iteration_s(side, slices, angles):
    """Best wall and core time of what SIRT does again and again, everything set up."""
    geometry = Geometry(np.linspace(-40, 40, angles), side, side, side)
    gains = np.full((side, side), 1e-3, np.float32)
    weights = np.full((angles, side, 1), 1e-3, np.float32)
    blocks = range(-(-slices // LANES))
    volumes = [zeros((side, side, LANES)) for _ in blocks]
    measured = [zeros((angles, side, LANES)) + np.float32(1) for _ in blocks]
    residuals = [zeros((angles, side, LANES)) for _ in blocks]

    def iterate(block):
        residuals[block][:] = measured[block]
        geometry.project(volumes[block], residuals[block], -1.0)
        residuals[block] *= weights
        geometry.backproject(residuals[block], volumes[block], gains, 0.0)

    # About as much work in every case.
    repeats = int(np.clip(2**28 * 11 // (side**2 * slices * angles), 4, 30))
    return best_of(repeats, lambda: in_threads(iterate, blocks))[:2]


def show_growth():
    """Print how the time of an iteration grows with pixels, slices and tilts."""
    print(
        f"time of one iteration; {LANES} slices are a block, of one thread; the last column is the"
    )
    print("time of all cores for a slice x tilt x pixel^2, which stays where growth is linear")
    print("  side  slices  tilts      wall s   cores s        ns")
    for cases in (
        [(side, 64, 41) for side in (128, 256, 512, 1024)],
        [(256, slices, 41) for slices in (16, 32, 64, 128, 256)],
        [(256, 64, angles) for angles in (11, 21, 41, 81, 161)],
    ):
        for side, slices, angles in cases:
            wall_s, core_s = iteration_s(side, slices, angles)
            unit_ns = core_s / (side**2 * slices * angles) * 1e9
            print(
                f"  {side:4d} {slices:7d} {angles:6d} {wall_s:11.4f} {core_s:9.4f} {unit_ns:9.3f}",
                flush=True,
            )
        print()


def figures(wall_s, core_s):
    """Two columns, milliseconds."""
    return f"{wall_s * 1e3:10.2f} {core_s * 1e3:10.2f}"


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


def main():
    """Print all figures."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.processor() or platform.machine()}, {cores} cores, {LANES} slices a block")
    sirt(np.ones((2, 1, 8)), np.array([0.0, 80.0]), 1)  # compile
    check_adjoint()
    compare_sirt()
    show_growth()
    time_preview()


if __name__ == "__main__":
    main()
