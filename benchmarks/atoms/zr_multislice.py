"""Multislice images of a small oxidised zirconium particle, and its atoms found in their counts.

``python benchmarks/atoms/zr_multislice.py [--atoms 100] [--wedge 69] [--step 6] [--interpolation 4]
[--phonons 2] [--keep zr_multislice.npz]``

Needs abTEM (``pip install 'pyrotome[multislice]'``); without it nothing is done, and that is said.
Images are computed by PRISM (Ophus, Adv. Struct. Chem. Imaging 3, 13, 2017) with frozen phonons:
300 kV, 25 mrad, an annular detector from 39 mrad on, blurred by the size of the source. A file of
`--keep` that is there already is taken instead of computing it. Counts are drawn at 5e5 and 5e4
e/A^2, and fitted as ``pyrotome atoms`` does. The peer is the picture of Gaussian atoms that the
simulated microscope draws of the same particle.
"""

import argparse
import importlib.util
import math
import sys
import time
from pathlib import Path

import numpy as np
from figures import PM, bound, computer, timed

from pyrotome.analysis.atoms import LikelihoodSettings, fit_atoms, match_atoms
from pyrotome.protocols.config.simulated import ZrZrO2
from pyrotome.simulators.world.atoms.projection import Probe, counted_fraction, turned_a
from pyrotome.simulators.world.atoms.specimens import THERMAL_A, OxidisedParticle

PIXEL_A, FINER, BESIDE_A, SOURCE_A = 0.358, 2, 4.0, 0.35
ENERGY_EV, CONE_MRAD, INNER_MRAD, OUTER_MRAD = 300e3, 25.0, 39.0, 120.0
SAMPLING_A, SLICE_A = 0.05, 2.0
# Recall, precision and pm, by dose in e/A^2.
BOUNDS = {5e5: (1.0, 1.0, 7.0), 5e4: (0.99, 0.99, 20.0)}


def multislice(truth, tilt_deg, side_a, interpolation, phonons, seed):
    """Fraction of the electrons in the detector at each place of the probe, rows along y."""
    import abtem
    import ase

    places = turned_a(truth.positions_a, tilt_deg, 0.0)
    depth_a = 2 * (np.abs(places[:, 2]).max() + 2 * SLICE_A)
    atoms = ase.Atoms(
        list(truth.symbols), places + 0.5 * np.array([side_a, side_a, depth_a]),
        cell=[side_a, side_a, depth_a],
    )  # fmt: skip
    moving = abtem.FrozenPhonons(atoms, num_configs=phonons, sigmas=THERMAL_A, seed=seed)
    potential = abtem.Potential(moving, sampling=SAMPLING_A, slice_thickness=SLICE_A)
    waves = abtem.SMatrix(
        potential=potential, energy=ENERGY_EV, semiangle_cutoff=CONE_MRAD,
        interpolation=interpolation,
    )  # fmt: skip
    fine = round(side_a / PIXEL_A) * FINER
    scan = abtem.GridScan(start=(0, 0), end=(side_a, side_a), gpts=fine, endpoint=False)
    detector = abtem.AnnularDetector(inner=INNER_MRAD, outer=OUTER_MRAD)
    found = waves.scan(scan=scan, detectors=detector).compute(progress_bar=False)
    image = np.asarray(found.array, np.float64)
    image = image.mean(axis=0) if image.ndim == 3 else image
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(image, SOURCE_A / PIXEL_A * FINER, mode="wrap")
    return blurred[::FINER, ::FINER].T


def series(given, truth, tilts):
    """Images of all tilts, computed or read."""
    if given.keep is not None and given.keep.exists():
        with np.load(given.keep) as file:
            return file["images"]
    side = 4 * math.ceil(2 * (np.linalg.norm(truth.positions_a, axis=1).max() + BESIDE_A)
                         / PIXEL_A / 4)  # fmt: skip
    images = []
    for number, tilt in enumerate(tilts):
        began = time.process_time(), time.perf_counter()
        images.append(
            multislice(truth, tilt, side * PIXEL_A, given.interpolation, given.phonons, number)
        )
        print(f"  {tilt:+.0f} deg: {time.process_time() - began[0]:.0f} s cores, "
              f"{time.perf_counter() - began[1]:.0f} s", flush=True)  # fmt: skip
    if given.keep is not None:
        np.savez_compressed(given.keep, images=np.array(images), tilt_deg=tilts)
    return np.array(images)


def like_gaussians(specimen, images, tilts):
    """How alike the pictures of Gaussian atoms are, and how much of the electrons each counts."""
    atoms = specimen.scatterers(0.0, 300.0)
    # The scan begins at the edge of the box; a picture has its middle between its pixels.
    rows = np.full((images.shape[1], 2), 0.5 * PIXEL_A)
    probe = Probe(PIXEL_A, np.eye(2), rows, 0.42, 0.2, 1.5)
    took_s, _, drawn = timed(
        lambda: np.array([counted_fraction(atoms, images.shape[1:], t, 0.0, probe) for t in tilts])
    )
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(images, drawn, strict=True)]
    print(f"  Gaussian atoms: {took_s:.2f} s for all views, correlation {min(alike):.3f} to "
          f"{max(alike):.3f}, counted {drawn.sum() / images.sum():.2f} times as much")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--atoms", type=int, default=100)
    parser.add_argument("--wedge", type=int, default=69)
    parser.add_argument("--step", type=int, default=6)
    parser.add_argument("--interpolation", type=int, default=4)
    parser.add_argument("--phonons", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="npz file of the images")
    given = parser.parse_args()
    if importlib.util.find_spec("abtem") is None and not (given.keep and given.keep.exists()):
        print("abTEM is not installed: pip install 'pyrotome[multislice]'; nothing was computed")
        return
    config = ZrZrO2.model_validate({"kind": "zr-zro2", "atoms": given.atoms})
    specimen = OxidisedParticle(config, given.seed)
    truth = specimen.truth(0.0)
    tilts = np.arange(-given.wedge, given.wedge + 1, given.step, dtype=float)
    print(f"multislice of {given.atoms} Zr and {len(truth.of('O'))} O, {len(tilts)} tilts; "
          f"{computer()}")  # fmt: skip
    wall_s, core_s, images = timed(lambda: series(given, truth, tilts))
    print(f"  images: {wall_s:.0f} s ({core_s:.0f} s cores)")
    like_gaussians(specimen, images, tilts)
    good = True
    rng = np.random.default_rng(given.seed)
    for dose, (least, exact, most_pm) in BOUNDS.items():
        counts = rng.poisson(dose / len(tilts) * PIXEL_A**2 * images).astype(np.uint16)
        fit = fit_atoms(counts, tilts, PIXEL_A, settings=LikelihoodSettings())
        match = match_atoms(fit.positions_a, truth.of("Zr"))
        print(f"  {dose:.0e} e/A^2: {len(fit.heights)} atoms")
        good &= bound("recall", match.recall, least, least=True)
        good &= bound("precision", match.precision, exact, least=True)
        good &= bound("error", PM * match.rmsd_a, most_pm, " pm")
    if not good:
        sys.exit("a bound is missed")


if __name__ == "__main__":
    main()
