"""Atoms while a series is taken: time of each coarse model, expected errors, chosen tilts.

``python benchmarks/atoms/live.py [--atoms 150] [--dose 6e4]``. A simulated amorphous particle, its
views dose-symmetric. Each model says its errors, and those that it expects at the end of the
series; beside them stands what is true. Then two series of half as many views: every second tilt,
and the tilts that the model chooses among all, each view with the same dose. Both end with the fit
of the whole series.
"""

import argparse
import sys
import time

import numpy as np
from figures import PM, computer, warm_up

from pyrotome.analysis.atoms import LikelihoodSettings, fit_atoms, match_atoms
from pyrotome.analysis.core.progress import run_to_end
from pyrotome.analysis.live.coarse_atoms import CoarseAtoms
from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

TILTS = np.arange(-69.0, 70.0, 3.0)
PIXEL_A = 0.35
BUDGET_S = 5.0
# A settled model states its error within this factor, and expects that of the end within this one.
STATED, EXPECTED = 1.4, 1.3


def simulated(atoms, dose, seed):
    rng = np.random.default_rng(seed)
    particle = amorphous_particle(atoms, rng)
    across = 2 * np.linalg.norm(particle, axis=1).max() / PIXEL_A
    side = max(56, int(across) + 24)
    imaging = Imaging(PIXEL_A, (side, side), dose_e_per_a2=dose, pedestal=0.5)
    return particle, simulated_series(particle, TILTS, imaging, rng).counts


def grown(counts, order, model, told=None):
    """Take views one after another; the next one is chosen once the model has settled."""
    left, taken, newest = list(order), [], None
    for _ in range(len(order) if told is None else told):
        place = left[0]
        if told is not None and newest is not None and newest.settled:
            place = min(left, key=lambda one: abs(TILTS[one] - newest.next_deg))
        left.remove(place)
        taken.append(place)
        model.add_view(int(place), counts[place].astype(np.float32), float(TILTS[place]))
        started_s = time.process_time()
        newest = run_to_end(model.model(), None)
        yield taken, newest, time.process_time() - started_s


def coarse():
    return CoarseAtoms(PIXEL_A, TILTS, 0.0, LikelihoodSettings(), BUDGET_S)


def fitted(counts, taken, particle):
    places = np.sort(taken)
    fit = fit_atoms(counts[places], TILTS[places], PIXEL_A)
    match = match_atoms(fit.positions_a, particle)
    return match.recall, match.precision, PM * match.rmsd_a


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, default=150)
    parser.add_argument("--dose", type=float, default=6e4)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    print(f"particle of {arguments.atoms} atoms, {arguments.dose:g} e/A^2; {computer()}")
    particle, counts = simulated(arguments.atoms, arguments.dose, arguments.seed)
    warm_up()
    order = np.argsort(np.abs(TILTS), kind="stable")
    first, made = None, None
    for taken, made, cpu_s in grown(counts, order, coarse()):
        if made is None:
            continue
        match = match_atoms(made.positions_a, particle)
        said, expected = (PM * np.median(part) for part in (made.error_a, made.expected_error_a))
        if made.settled and first is None:
            first = (len(taken), said / (PM * match.rmsd_a), expected)
        if len(taken) % 6 == 0 or len(taken) == len(TILTS):
            notes = "; ".join(["" if made.settled else "not settled", *made.skipped])
            print(
                f"  {len(taken):3d} views: recall {100 * match.recall:.0f} %, precision "
                f"{100 * match.precision:.0f} %, {PM * match.rmsd_a:.1f} pm, stated {said:.1f}, "
                f"expected at the end {expected:.1f}; {cpu_s:.1f} s CPU; {notes}"
            )
    ok = first is not None
    if first is not None:
        views, ratio, expected = first
        end = PM * match.rmsd_a
        print(
            f"  settled at {views} views: stated over true {ratio:.2f}, expected {expected:.1f} pm "
            f"of {end:.1f} pm in the end"
        )
        ok = 1 / STATED < ratio < STATED and 1 / EXPECTED < expected / end < EXPECTED
    half = len(TILTS) // 2
    plain = fitted(counts, np.arange(0, len(TILTS), 2)[:half], particle)
    taken = [taken for taken, _, _ in grown(counts, order, coarse(), half)][-1]
    chosen = fitted(counts, taken, particle)
    for name, (recall, precision, rmsd_pm) in (("every second", plain), ("chosen", chosen)):
        print(f"  {half} tilts, {name}: recall {100 * recall:.1f} %, precision "
              f"{100 * precision:.1f} %, {rmsd_pm:.1f} pm")  # fmt: skip
    sys.exit(not ok)


if __name__ == "__main__":
    main()
