"""RESIRE: time and memory of an iteration, beside SIRT of ASTRA on the CPU or SART of skimage.

``python benchmarks/atoms/reconstruction.py [--side 290] [--tilts 60]``. ASTRA is used where it is
installed (`pip install astra-toolbox`), else the SART of scikit-image, one iteration of one slice.
"""

import argparse
import time
import tracemalloc

import numpy as np
from figures import bound, computer, timed
from skimage.transform import iradon_sart

from pyrotome.analysis.tomography import project, resire

ITERATIONS = 10


def phantom(side, slices):
    rng = np.random.default_rng(0)
    volume = np.zeros((slices, side, side), np.float32)
    inner = side // 5
    for y, z, x in rng.integers(inner, side - inner, (40, 3)):
        volume[y * slices // side, z - 3 : z + 4, x - 3 : x + 4] = 1
    return volume


def astra_iteration_s(astra, sinogram, tilts):
    """Best time of an iteration of one slice, in ten pieces of a run."""
    side = sinogram.shape[1]
    volume_geometry = astra.create_vol_geom(side, side)
    geometry = astra.create_proj_geom("parallel", 1.0, side, -np.deg2rad(tilts))
    measured = astra.data2d.create("-sino", geometry, sinogram)
    volume = astra.data2d.create("-vol", volume_geometry, 0)
    settings = astra.astra_dict("SIRT") | {
        "ProjectorId": astra.create_projector("linear", geometry, volume_geometry),
        "ProjectionDataId": measured,
        "ReconstructionDataId": volume,
    }
    algorithm = astra.algorithm.create(settings)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        astra.algorithm.run(algorithm, 4)
        times.append((time.perf_counter() - start) / 4)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=290)
    parser.add_argument("--tilts", type=int, default=60)
    arguments = parser.parse_args()
    side, tilts = arguments.side, np.linspace(-90, 90, arguments.tilts, endpoint=False)
    print(f"RESIRE, {side} x {side} x {side}, {len(tilts)} tilts; {computer()}")
    images = project(phantom(side, side), tilts)
    resire(images[:, :32], tilts, 1)
    few_s = min(timed(lambda: resire(images, tilts, 1))[0] for _ in range(3))
    many_s = min(timed(lambda: resire(images, tilts, 1 + ITERATIONS))[0] for _ in range(3))
    ours_s = (many_s - few_s) / ITERATIONS
    tracemalloc.start()
    resire(images, tilts, 1)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"  pyrotome: {1e3 * ours_s:.0f} ms an iteration, {used / 1e6:.0f} MB beside the images")
    sinogram = np.ascontiguousarray(images[:, side // 2])
    try:
        import astra
    except ImportError:
        peer = "SART of scikit-image"
        turned = np.ascontiguousarray(sinogram.T).astype(np.float64)
        slice_s = min(timed(lambda: iradon_sart(turned, theta=tilts))[0] for _ in range(3))
    else:
        peer = f"SIRT of ASTRA {astra.__version__}"
        slice_s = astra_iteration_s(astra, sinogram, tilts)
    # One slice of the peer keeps one core busy: two perfect cores are granted to it.
    peer_s = slice_s * side / 2
    print(
        f"  {peer}: {1e3 * peer_s:.0f} ms an iteration, from one slice, two perfect cores granted"
    )
    bound("faster than the peer by", peer_s / ours_s, 1.0, " x", least=True)


if __name__ == "__main__":
    main()
