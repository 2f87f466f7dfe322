"""Necks of particles that were sintered on a column that errs: tracked, and not.

``python benchmarks/tracking/necks.py [--seeds 1 2] [MODE ...]``. ``pyrotome run`` takes two tilt
series of 41 frames through the wires, 20 s at 350 degC between them; ``pyrotome process`` aligns,
reconstructs and measures the second. What the necks truly were is known from the simulator's log.
Modes: the ideal column, whose field stands still; the realistic one without tracking, tracked as
the defaults have it, and with a scout before every frame. Errors are told of the particles that
were in the field in nearly all frames of that mode, beside those of the still field for the same
ones. The last lines are the bounds to keep.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

HOUSE = Path(__file__).parents[2]
sys.path[:0] = [str(HOUSE / "benchmarks" / part) for part in ("analysis", "tracking")]

from through_wires import TRACK, inputs  # noqa: E402
from wandering import Figures, common_part, pooled  # noqa: E402

import pyrotome  # noqa: E402
from pyrotome.analysis.particles.necks import measure_particles  # noqa: E402
from pyrotome.simulators.world.copper import Sintering  # noqa: E402

MODES = ("still", "none", "default", "ample")
HOLD_S, SIDE, AT_MOST = 20, 1024, 1.1
BOUND_MODES = ("default", "ample")
PIPELINE = """\
- align: {method: mutual-information}
- reconstruct: {method: tv, iterations: 100, binning: 4}
- segment: {method: otsu}
- measure: necks
"""


def command(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pyrotome.daemon", *arguments],
        cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 4):
        raise RuntimeError(f"pyrotome {arguments[0]}: {done.returncode}\n{done.stderr[-1500:]}")
    return done


def measured(folder, mode, seed, speed):
    """Run and process one mode; its run file and the true state of each frame of series 2."""
    inputs(folder, "none" if mode == "still" else mode, 2, SIDE, seed)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["steps"][-1]["cycle"]["holds"] = [f"{HOLD_S} s"]
    recipe["track"] = TRACK.get(mode, "none")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    if mode == "still":
        rig = yaml.safe_load((folder / "rig.yaml").read_text())
        for part in ("chip", "goniometer", "column"):
            rig["simulator"][part] = {"ideal": True}
        (folder / "rig.yaml").write_text(yaml.safe_dump(rig))
    (folder / "pipeline.yaml").write_text(PIPELINE)
    command(folder, "run", "recipe.yaml", "--rig", "rig.yaml", "-o", "run.nxs", "--speed",
            str(speed), "--simulator-log", "world.log")  # fmt: skip
    command(folder, "process", "run.nxs", "--pipeline", "pipeline.yaml", "--series", "2",
            "--no-tables")  # fmt: skip
    lines = [json.loads(line) for line in (folder / "world.log").read_text().splitlines()]
    frames = [
        line for line in lines if line["event"] == "exposure" and line["shape"] == [SIDE, SIDE]
    ]
    return frames[0], frames[-41:]


class Necks:
    """What one neck of the table tells."""

    def __init__(self, row):
        self.particle_a, self.particle_b = int(row["particle_a"]), int(row["particle_b"])
        self.neck_radius_nm = float(row["neck_radius_nm"])


def figures_of(folder, mode, seed, speed):
    """Figures of one mode, its truth, and the displacements (y, x) of the field."""
    first, frames = measured(folder, mode, seed, speed)
    tilts = np.array([line["tilt_deg"] for line in frames])
    offsets = np.array([line["offset_nm"] for line in frames]) - np.array(first["offset_nm"])
    truth = Sintering(36, seed).truth(float(np.median([line["equivalent_s"] for line in frames])))
    with pyrotome.open(folder / "run.nxs") as run:
        results = run.series[2].results
        volume, labels = results["volume"].data, results["labels"].data
        columns = results["necks"].columns
        table = [dict(zip(columns, row, strict=True)) for row in results["necks"].data]
        voxel_nm = run.series[2].pixel_nm * 4
    particles = measure_particles(volume, labels, voxel_nm)
    # The rows behind the last neck are empty.
    necks = [Necks(row) for row in table if np.isfinite(row["particle_a"])]
    order = np.argsort(tilts)
    outcome = None, volume, particles, necks, 0.0  # nothing is told of the alignment
    return Figures(truth, tilts[order], offsets[order], outcome), truth, tilts, offsets


def main():
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modes", nargs="*", default=list(MODES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--speed", type=float, default=4)
    given = parser.parse_args()
    kept = []
    print("specimen mode      field off rms/nm    pairs (false)  neck error (p90)     centres off  "
          "the same ones, still")  # fmt: skip
    for seed in given.seeds:
        still = None
        for mode in ("still", *(m for m in given.modes if m != "still")):
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as name:
                try:
                    figures, truth, tilts, offsets = figures_of(Path(name), mode, seed, given.speed)
                except (RuntimeError, KeyError) as error:
                    print(f"{seed:8d} {mode:8s} {error}", flush=True)
                    continue
            still = figures if mode == "still" else still
            inside = common_part(truth, tilts, offsets, SIDE * 1.04)
            common, pairs = np.flatnonzero(inside), np.flatnonzero(inside[truth.pairs].all(axis=1))
            found, median, p90, off = figures.of(common, pairs)
            same = still.of(common, pairs)
            rms = float(np.sqrt(np.mean((offsets - offsets.mean(axis=0)) ** 2)))
            print(f"{seed:8d} {mode:8s} {rms:12.1f} {found:10d}/{len(pairs):2d} (+{figures.false})"
                  f" {median:11.1f} ({p90:5.1f}) % {off:11.1f} nm   {same[0]}/{len(pairs)}, "
                  f"{same[1]:.1f} %, {same[3]:.1f} nm; {time.perf_counter() - began:.0f} s",
                  flush=True)  # fmt: skip
            if mode in BOUND_MODES:
                kept.append((mode, figures.part(common, pairs), still.part(common, pairs)))
    print("must show, all specimens together, in times those of the same part of the still field:")
    for mode in BOUND_MODES:
        rows = [(mine, same) for name, mine, same in kept if name == mode]
        if rows:
            mine, same = pooled([a for a, _ in rows]), pooled([b for _, b in rows])
            ratio = mine[1] / same[1]
            kept_or_not = "kept" if ratio <= AT_MOST else "MISSED"
            print(f"  {mode:8s} pairs {mine[0]} of {same[0]}, necks {ratio:.2f} (at most "
                  f"{AT_MOST}: {kept_or_not})")  # fmt: skip


if __name__ == "__main__":
    main()
