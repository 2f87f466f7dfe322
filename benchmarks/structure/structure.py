"""What the positions of 20,000 atoms say: core seconds beside the libraries one would use by hand.

``python benchmarks/structure/structure.py [--atoms 20000] [--draws 16]``. The peers are freud (pair
distances, order; single precision), pyvoro2 (Voronoi cells) and scipy, where they are installed:
``pip install 'pyrotome[test]'``. Core seconds count, so that a busy computer does not spoil them.
"""

import argparse
import os
import platform
import resource
import time

import numpy as np

from pyrotome.analysis.structure import (
    StructureSettings,
    analyse_structure,
    atom_list,
    bond_order,
    bonds_of,
    concentration_of,
    match_series,
    pair_distribution,
    shape_function,
    tetrahedra_of,
)

EDGE, CUTOFF, REACH, SIGMA = 4.9, 4.5, 12.0, 0.05


def core_s(work, repeats=3):
    """Least core seconds of some runs, and the result."""
    best, result = np.inf, None
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


def particle(atoms):
    """A ball of fcc with the middle of metal and oxide as its edge, each atom a little off."""
    side = int(np.cbrt(3 * atoms / (4 * np.pi) / 4)) + 4
    grid = np.stack(np.mgrid[[slice(-side, side + 1)] * 3], -1).reshape(-1, 3)
    places = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    points = EDGE * np.concatenate([grid + place for place in places])
    nearest = np.argsort(np.linalg.norm(points + 0.01, axis=1))[:atoms]
    return points[nearest] + np.random.default_rng(0).normal(0, 0.1, (atoms, 3))


def beside(what, ours_s, peers):
    """Print a time beside those of its peers."""
    said = "; ".join(
        f"{name} {s:.2f} s" if s is not None else f"{name} absent" for name, s in peers
    )
    print(f"  {what}: {ours_s:.2f} s; {said}")


def order_peer(points):
    try:
        import freud
    except ImportError:
        return None, None

    def work():
        steinhardt = freud.order.Steinhardt(l=[4, 6], average=True)
        steinhardt.compute((freud.box.Box.cube(400), points), neighbors={"r_max": CUTOFF})
        return steinhardt.particle_order

    freud.parallel.set_num_threads(1)
    return core_s(work)


def pairs_peer(points):
    try:
        import freud
    except ImportError:
        return None, None

    def work():
        rdf = freud.density.RDF(bins=600, r_max=REACH)
        return rdf.compute((freud.box.Box.cube(400), points)).bin_counts

    return core_s(work)


def cells_peer(points):
    try:
        import pyvoro2
    except ImportError:
        return None, None
    reach = float(np.abs(points).max()) + 5

    def work():
        box = pyvoro2.Box(bounds=((-reach, reach),) * 3)
        cells = pyvoro2.compute(points, domain=box, output="cells")
        return np.array([c["volume"] for c in sorted(cells, key=lambda c: c["id"])])

    return core_s(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, default=20000)
    parser.add_argument("--draws", type=int, default=16)
    arguments = parser.parse_args()
    points = particle(arguments.atoms)
    load = "/".join(f"{part:.1f}" for part in os.getloadavg())
    print(f"structure of {len(points)} atoms; {platform.machine()}, {os.cpu_count()} cores, {load}")
    concentration_of(points[:200], bonds_of(points[:200], CUTOFF))  # compiles
    ours_s, order = core_s(lambda: bond_order(points, CUTOFF))
    peer_s, peer = order_peer(points)
    beside("order (Q4, Q6)", ours_s, [("freud", peer_s)])
    if peer is not None:
        print(f"    freud's single precision differs by {np.abs(peer[:, 1] - order.q6).max():.1e}")
    ours_s, cells = core_s(lambda: concentration_of(points, bonds_of(points, CUTOFF)))
    whole = concentration_of(points, bonds_of(points, 2 * CUTOFF), least_face=0.0)
    peer_s, volumes = cells_peer(points)
    beside("Voronoi cells, small faces dropped", ours_s, [("pyvoro2, nothing dropped", peer_s)])
    if volumes is not None:
        off = np.nanmax(np.abs(whole.per_a3 * volumes - 1)[np.isfinite(cells.per_a3)])
        print(f"    nothing dropped, volumes differ by {off:.1e}")
    ours_s, tetrahedra = core_s(lambda: tetrahedra_of(points, CUTOFF))
    print(f"  Delaunay, circumspheres, surface: {ours_s:.2f} s (most of it scipy's Delaunay)")
    shape_s, shape = core_s(
        lambda: shape_function(points, tetrahedra, REACH, np.random.default_rng(0)), 1
    )
    ours_s, _ = core_s(lambda: pair_distribution(points, None, shape))
    beside("pair distribution", ours_s, [("freud, counts alone", pairs_peer(points)[0])])
    print(f"    once for a particle, its shape: {shape_s:.2f} s")
    covariance = np.tile(SIGMA**2 * np.eye(3), (len(points), 1, 1))
    atoms = atom_list(points, "Zr", covariance)
    once_s, _ = core_s(lambda: analyse_structure(atoms, StructureSettings(draws=0)), 1)
    ours_s, found = core_s(
        lambda: analyse_structure(atoms, StructureSettings(draws=arguments.draws)), 1
    )
    print(
        f"  everything once: {once_s:.1f} s; with errors from {found.draws} draws: {ours_s:.1f} s"
    )
    moved = atom_list(
        points + np.random.default_rng(1).normal(0, SIGMA, points.shape), "Zr", covariance
    )
    ours_s, _ = core_s(lambda: match_series(atoms, moved), 1)
    print(f"  two series matched: {ours_s:.1f} s")
    print(f"  memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
