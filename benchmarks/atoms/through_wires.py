"""Atoms of an oxidised zirconium particle through the real wires, compared with the truth.

``python benchmarks/atoms/through_wires.py [--atoms 8000] [--dose 5e5 --dose 5e4] [--wedge 69]
[--film 2] [--creep 0.05] [--jitter 0.1] [--tilt-error 0.08] [--scan-jitter 3] [--hold 5]``

For each dose the command ``pyrotome run`` takes a tilt series with three frames at each angle
from the simulators of heater, stage, column and detector, and ``pyrotome atoms`` fits the counts of
the file. Where every atom was is computed from seed and equivalent time of the simulator's own log.
With `--hold` a second series follows a hold at 350 degC, whose atoms have moved. The peer is the
list of peaks of the smoothed RESIRE volume in which the fit begins, without any alignment.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from figures import PM, bound, computer

from pyrotome.analysis.atoms import match_atoms
from pyrotome.analysis.atoms.search.start import smoothed_peaks, volume_of
from pyrotome.analysis.commands.atoms import read_counts
from pyrotome.analysis.commands.import_ import ImportRequest
from pyrotome.analysis.core.border import border_level
from pyrotome.protocols.config.simulated import ZrZrO2
from pyrotome.protocols.core.units import ELEMENTARY_CHARGE_C
from pyrotome.simulators.world.atoms.specimens import OxidisedParticle

HOUSE = Path(__file__).parents[2]
PIXEL_A, DWELL_S, FRAMES, STEP_DEG = 0.358, 3e-6, 3, 3
# Beside the particle, in angstrom: what jitter and creep need.
BESIDE_A = 14.0
# Recall, precision and pm, by dose in e/A^2.
BOUNDS = {5e5: (1.0, 1.0, 6.0), 5e4: (0.995, 0.995, 16.0)}
MOVED_A = 0.5


def inputs(folder, given, dose, extent_a):
    """Write recipe and rig."""
    angles = 2 * given.wedge // STEP_DEG + 1
    electrons = dose * PIXEL_A**2 / (angles * FRAMES)
    current_pa = electrons * ELEMENTARY_CHARGE_C / DWELL_S * 1e12
    side = 4 * math.ceil(2 * (extent_a + BESIDE_A) / PIXEL_A / 4)
    tilts = {"from": f"-{given.wedge} deg", "to": f"{given.wedge} deg", "step": f"{STEP_DEG} deg",
             "frames_per_tilt": FRAMES}  # fmt: skip
    steps = [{"tilt_series": tilts}]
    if given.hold:
        holds = {"holds": [f"{given.hold} s"], "then": [{"tilt_series": tilts}]}
        steps.append({"cycle": {"standby": "25 degC", "processing": "350 degC"} | holds})
    recipe = {
        "title": f"{given.atoms} Zr at {dose:g} e/A^2",
        "sample": {"name": "simulated Zr-ZrO2", "elements": ["Zr", "O"]},
        "beam": {"voltage": "300 kV", "current": f"{current_pa} pA", "dwell": f"{DWELL_S} s",
                 "frame": [side, side], "pixel_size": f"{PIXEL_A} A"},
        "steps": steps,
        "analysis": [],
    }  # fmt: skip
    rig = yaml.safe_load((HOUSE / "examples/rigs/atoms.yaml").read_text())
    simulator = rig["simulator"]
    simulator["seed"] = given.seed
    simulator["specimen"] = {"kind": "zr-zro2", "atoms": given.atoms, "film": f"{given.film} nm"}
    simulator["goniometer"] |= {
        "creep": f"{given.creep} nm/s",
        "jitter": f"{given.jitter} nm",
        "tilt_error": f"{given.tilt_error} deg",
    }
    simulator["column"] |= {"scan_jitter": f"{given.scan_jitter} pm"}
    rig["streams"] = {"monitor": "tcp://127.0.0.1:*", "control": "tcp://127.0.0.1:*"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "rig.yaml").write_text(yaml.safe_dump(rig))
    return angles * FRAMES


def command(folder, *words):
    """Carry out a command of pyrotome; wall seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pyrotome.daemon", *words], cwd=folder, capture_output=True,
        text=True, timeout=7200, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"pyrotome {' '.join(words)}: exit {done.returncode}\n{done.stderr[-1500:]}")
    for line in done.stderr.splitlines():
        if ".nxs: " in line:
            print(f"    told: {line[:200]}")
    return time.monotonic() - began


def read_xyz(path):
    lines = path.read_text().splitlines()[2:]
    return np.array([[float(word) for word in line.split()[1:4]] for line in lines])


def peer(folder):
    """Peaks of the smoothed volume of RESIRE, without any fit of the views' places."""
    request = ImportRequest(folder / "run.nxs", folder / "no", None, None, entry="series_001")
    series = read_counts(request)
    level = border_level(series.counts)
    still = np.zeros((len(series.tilt_deg), 2))
    volume = volume_of(series.counts, level, series.tilt_deg, still, 0.0)
    peaks, _ = smoothed_peaks(volume, 0.3 / series.pixel_a, 1.6 / series.pixel_a)
    return peaks * series.pixel_a


def report(folder, given, dose, frames, particle):
    lines = [json.loads(line) for line in (folder / "world.log").read_text().splitlines()]
    exposed = [line for line in lines if line["event"] == "exposure"]
    good, before, fitted = [], None, None
    for number in range(2 if given.hold else 1):
        name = f"series_{number + 1:03d}"
        took_s = command(
            folder, "atoms", "run.nxs", "--entry", name, "--species", "Zr", "-o", f"{name}.xyz"
        )
        of_series = exposed[number * frames : (number + 1) * frames]
        truth = particle.truth(of_series[0]["equivalent_s"]).of("Zr")
        found = read_xyz(folder / f"{name}.xyz")
        match = match_atoms(found, truth)
        told = sum(line["dose_e_per_nm2"] for line in of_series) / 100
        print(f"  {name}: {told:.3g} e/A^2 in {frames} frames, fitted in {took_s:.0f} s: "
              f"{len(found)} atoms of {len(truth)}")  # fmt: skip
        least, exact, most_pm = BOUNDS.get(dose, (0.0, 0.0, math.inf))
        good += [
            bound("recall", match.recall, least, least=True),
            bound("precision", match.precision, exact, least=True),
            bound("error", PM * match.rmsd_a, most_pm, " pm"),
        ]
        if before is not None:
            moved = np.linalg.norm(truth - before, axis=1) > MOVED_A
            seen = np.isin(np.flatnonzero(moved), match.pairs[:, 1])
            print(f"    {moved.sum()} atoms have moved, {seen.sum()} are found where they are now")
        before = truth
        if fitted is None:
            fitted = found
            raw = match_atoms(peer(folder), truth)
            print(f"    RESIRE and Gaussian: recall {100 * raw.recall:.1f} %, precision "
                  f"{100 * raw.precision:.1f} %, {PM * raw.rmsd_a:.1f} pm")  # fmt: skip
    return all(good)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--atoms", type=int, default=8000)
    parser.add_argument("--dose", type=float, action="append", help="e/A^2; several may be given")
    parser.add_argument("--wedge", type=int, default=69, help="largest tilt in degrees")
    parser.add_argument("--film", type=float, default=2.0, help="thickness in nm")
    parser.add_argument("--creep", type=float, default=0.05, help="nm/s, rms per axis")
    parser.add_argument("--jitter", type=float, default=0.1, help="nm at each tilt, rms per axis")
    parser.add_argument("--tilt-error", type=float, default=0.08, help="degrees, rms")
    parser.add_argument("--scan-jitter", type=float, default=3.0, help="pm a row, rms per axis")
    parser.add_argument("--hold", type=float, default=0.0, help="seconds at 350 degC")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="new folder to keep files in")
    given = parser.parse_args()
    if given.wedge % STEP_DEG:
        parser.error(f"--wedge: a multiple of {STEP_DEG} degrees")
    print(f"{given.atoms} Zr through the wires, +-{given.wedge} deg, film {given.film:g} nm, creep "
          f"{given.creep:g} nm/s, jitter {given.jitter:g} nm; {computer()}")  # fmt: skip
    config = ZrZrO2.model_validate({"kind": "zr-zro2", "atoms": given.atoms})
    particle = OxidisedParticle(config, given.seed)
    extent_a = float(np.abs(particle.particle.zr_a).max())
    good = True
    for dose in given.dose or list(BOUNDS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) if given.keep is None else given.keep / f"{dose:g}"
            folder.mkdir(parents=True, exist_ok=given.keep is None)
            frames = inputs(folder, given, dose, extent_a)
            took_s = command(
                folder, "run", "recipe.yaml", "--rig", "rig.yaml", "-o", "run.nxs",
                "--speed", str(given.speed), "--simulator-log", "world.log",
            )  # fmt: skip
            print(f"  run in {took_s:.0f} s")
            good &= report(folder, given, dose, frames, particle)
    if not good:
        sys.exit("a bound is missed")


if __name__ == "__main__":
    main()
