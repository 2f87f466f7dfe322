"""A simulated particle of 20,000 atoms, by likelihood and by a smoothed RESIRE volume.

``python benchmarks/atoms/particle.py [--atoms 20000] [--tilts 60] [--errors] [--wedge 70]``. The
particle is amorphous, at 8.0e3 e/A^2 and 0.347 A pixels. With `--errors` each view has a random
shift of 0.3 pixels and a tilt error of 0.1 deg, and the axis an offset of half a pixel and a turn
of 0.5 deg, which are not told. The peer is the volume in which the search starts: RESIRE of the raw
counts, smoothed, its peaks in two classes.
"""

import argparse
import sys

import numpy as np
from figures import PM, bound, computer, memory_gb, timed, warm_up

from pyrotome.analysis.atoms import LikelihoodSettings, fit_atoms, match_atoms
from pyrotome.analysis.atoms.search.start import smoothed_peaks, volume_of
from pyrotome.analysis.core.border import border_level
from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

FOUND, RMSD_PM, SECONDS, GIGABYTES = 0.985, 27.5, 180.0, 2.0
CHI_95 = 7.8147
ERRORS = {"axis_offset_px": 0.5, "rotation_deg": 0.5, "shift_sd_px": 0.3, "tilt_sd_deg": 0.1}


def simulated(atoms, tilts, errors, seed):
    rng = np.random.default_rng(seed)
    particle = amorphous_particle(atoms, rng)
    across = 2 * np.linalg.norm(particle, axis=1).max() / Imaging.pixel_a
    side = max(64, int(across) + 26)
    imaging = Imaging(shape=(side, side), **(ERRORS if errors else {}))
    return particle, simulated_series(particle, tilts, imaging, rng)


def honest(fit, match):
    """Part of the errors within the 95 % ellipsoid, and how far probabilities are off."""
    inverse = np.linalg.inv(fit.covariance_a2[match.pairs[:, 0]])
    inside = np.einsum("ai,aij,aj->a", match.errors_a, inverse, match.errors_a) < CHI_95
    there = np.zeros(len(fit.gain))
    there[match.pairs[:, 0]] = 1
    off = []
    for low, high in ((0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 0.99), (0.99, 1.01)):
        these = (fit.probability >= low) & (fit.probability < high)
        if these.sum() >= 30:
            told, true = fit.probability[these].mean(), there[these].mean()
            off.append(abs(told - true))
            print(f"    there: told {100 * told:.1f} %, true {100 * true:.1f} % ({these.sum()})")
    return inside.mean(), max(off, default=0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, default=20_000)
    parser.add_argument("--tilts", type=int, default=60)
    parser.add_argument("--wedge", type=float, default=90.0, help="largest tilt, in degrees")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(f"particle of {arguments.atoms} atoms, {arguments.tilts} tilts; {computer()}")
    turn = arguments.wedge >= 90
    tilts = np.linspace(-arguments.wedge, arguments.wedge, arguments.tilts, endpoint=not turn)
    particle, series = simulated(arguments.atoms, tilts, arguments.errors, arguments.seed)
    pixel_a = series.imaging.pixel_a
    rows, columns = series.counts.shape[1:]
    print(f"  {rows} x {columns} pixels, {series.counts.mean():.2f}"
          " counts a pixel")  # fmt: skip
    warm_up()

    def peer():
        level = border_level(series.counts)
        volume = volume_of(series.counts, level, tilts, np.zeros((len(tilts), 2)), 0.0)
        return smoothed_peaks(volume, 0.3 / pixel_a, 1.6 / pixel_a)

    peer_s, _, peaks = timed(peer)
    match = match_atoms(peaks * pixel_a, particle)
    print(
        f"  RESIRE and Gaussian: {peer_s:.1f} s, recall {100 * match.recall:.2f} %, precision "
        f"{100 * match.precision:.2f} %, {PM * match.rmsd_a:.2f} pm"
    )
    settings = LikelihoodSettings(rotation_sd_deg=1.0)
    wall_s, core_s, fit = timed(lambda: fit_atoms(series.counts, tilts, pixel_a, settings=settings))
    match = match_atoms(fit.positions_a, particle)
    print(
        f"  likelihood: {wall_s:.1f} s ({core_s:.1f} s cores), recall {100 * match.recall:.2f} %, "
        f"precision {100 * match.precision:.2f} %, {PM * match.rmsd_a:.2f} pm; axis offset "
        f"{fit.axis_offset_px:+.3f} px, turn {fit.rotation_deg:+.3f} deg"
    )
    inside, off = honest(fit, match)
    for doubt in fit.doubts:
        print(f"    doubt: {doubt}")
    good = [
        bound("recall", match.recall, FOUND, least=True),
        bound("precision", match.precision, FOUND, least=True),
        bound("error", PM * match.rmsd_a, RMSD_PM, " pm"),
        bound("seconds", wall_s, SECONDS, " s"),
        bound("memory", memory_gb(), GIGABYTES, " GB"),
        bound("95 % ellipsoids hold, at least", inside, 0.92, least=True),
        bound("95 % ellipsoids hold, at most", inside, 0.97),
        bound("probability off by", off, 0.05),
    ]
    if not all(good):
        sys.exit("a bound is missed")


if __name__ == "__main__":
    main()
