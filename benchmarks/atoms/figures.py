"""What the benchmarks of atoms share: time, memory, verdicts, and the first use that compiles."""

import os
import platform
import resource
import time

import numpy as np

from pyrotome.analysis.atoms import fit_atoms
from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

PM = 100.0  # picometres of an angstrom


def computer():
    load = "/".join(f"{part:.1f}" for part in os.getloadavg())
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load}"


def timed(work):
    """Wall and core seconds, and the result."""
    wall_s, core_s = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall_s, time.process_time() - core_s, result


def repeated(repeats, work):
    """Best and median wall seconds, best core seconds, and the last result."""
    runs = [timed(work) for _ in range(repeats)]
    walls = [wall_s for wall_s, _, _ in runs]
    return min(walls), float(np.median(walls)), min(core_s for _, core_s, _ in runs), runs[-1][2]


def memory_gb():
    """Most memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def bound(what, figure, limit, unit="", *, least=False):
    """Print a figure beside its bound; tell whether it is met."""
    met = figure >= limit if least else figure <= limit
    sign = ">=" if least else "<="
    print(f"    {what}: {figure:.4g}{unit} ({sign} {limit:g}{unit}: {'met' if met else 'MISSED'})")
    return met


def warm_up():
    """Compile, or load from numba's cache, what a fit uses."""
    tilts = np.arange(0.0, 180, 12)
    imaging = Imaging(shape=(40, 40), dose_e_per_a2=1e5)
    rng = np.random.default_rng(0)
    series = simulated_series(amorphous_particle(12, rng), tilts, imaging, rng)
    fit_atoms(series.counts, tilts, imaging.pixel_a)
