"""The paper's 18 tilt series through the real wires, on a column that errs as a real one does.

``python benchmarks/tracking/through_wires.py [--series 18] [--side 1024] [MODE ...]``

The command ``pyrotome run`` follows the schedule of Ihara et al. (Nanoscale 2023, 15, 10133) with
the simulators of heater, stage, column and detector. Where the specimen truly was in each exposure
is read from the simulator's own log, which the daemon does not see; so is the fluence. At eight
times the real speed, what the computer needs for a frame looks like a second. Modes:

- ``none``: the beam stays, as without tracking.
- ``frames``: recorded frames alone teach the model (``scouts: none``).
- ``default``: a scout where the predicted offset is not known to 50 nm, 1 e/nm^2 a series at most.
- ``always``: a scout before every frame, as long as 1 e/nm^2 lasts.
- ``ample``: a scout before every frame, up to 4 e/nm^2 a series.
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

import pyrotome

HOUSE = Path(__file__).parents[2]
TRACK = {
    "none": "none",
    "frames": {"by": "model", "scouts": "none"},
    "default": {"by": "model"},
    "always": {"by": "model", "keep_within": "always"},
    "ample": {"by": "model", "keep_within": "always", "scouts": "4 e/nm^2"},
}
JITTER_NM = 60 * math.sqrt(0.5)
LATER = 4


def inputs(folder, mode, series, side, seed):
    """Write recipe and rig."""
    recipe = yaml.safe_load((HOUSE / "examples/recipes/cu_sintering.yaml").read_text())
    recipe["beam"] |= {"frame": [side, side], "pixel_size": f"{1064.96 / side} nm"}
    recipe["track"], recipe["analysis"] = TRACK[mode], []
    recipe.pop("settle", None)  # what is compared does not wait
    tilts = {"from": "-40 deg", "to": "40 deg", "step": "2 deg", "order": "ascending"}
    cycle = recipe["steps"][-1]["cycle"]
    cycle["holds"] = cycle["holds"][: series - 1]
    cycle["then"] = [{"tilt_series": tilts}]
    first = {"tilt_series": tilts | {"order": "bidirectional"}}
    recipe["steps"] = [{"heat": {"to": "200 degC"}}, first, {"cycle": cycle}]
    recipe["limits"] = {"temperature": "900 degC"}
    rig = yaml.safe_load((HOUSE / "examples/rigs/realistic.yaml").read_text())
    rig["simulator"]["seed"] = seed
    rig["streams"] = {"monitor": "tcp://127.0.0.1:*", "control": "tcp://127.0.0.1:*"}
    shutil.copy(HOUSE / "examples/rigs/shift_calibration.json", folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "rig.yaml").write_text(yaml.safe_dump(rig))


def run(folder, speed):
    """Run; returns what was printed, and how long it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pyrotome.daemon", "run", "recipe.yaml", "--rig", "rig.yaml",
         "-o", "run.nxs", "--speed", str(speed), "--simulator-log", "world.log"],
        cwd=folder, capture_output=True, text=True, timeout=3600, stdin=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
    return done, time.monotonic() - began


def of_series(folder, side):
    """Exposures of the world's log, in lists of one series each: frames, and scouts."""
    lines = [json.loads(line) for line in (folder / "world.log").read_text().splitlines()]
    found = [line for line in lines if line["event"] == "exposure"]
    frames, scouts = [[]], [[]]
    for line in found:
        if len(frames[-1]) == 41:
            frames.append([])
            scouts.append([])
        (frames if line["shape"] == [side, side] else scouts)[-1].append(line)
    return frames, scouts


def offsets(frames, zero):
    return np.array([line["offset_nm"] for line in frames]) - zero


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def delivered(folder, speed):
    """Fluence by the world's own count; what the blanker let through took wall seconds."""
    lines = [json.loads(line) for line in (folder / "world.log").read_text().splitlines()]
    dose = next((line for line in lines if line["event"] == "dose"), None)
    if dose is None:
        return math.nan
    exposed = dose["exposed_e_per_nm2"]
    return exposed + (dose["total_e_per_nm2"] - exposed) / speed


def report(mode, folder, side, speed, done, elapsed_s):
    frames, scouts = of_series(folder, side)
    whole = [one for one in frames if len(one) == 41]
    if not whole:
        print(
            f"{mode}: no series; exit {done.returncode}\n{done.stdout[-800:]}{done.stderr[-800:]}"
        )
        return
    zero = np.array(whole[0][0]["offset_nm"])
    off = np.array([offsets(one, zero) for one in whole])
    # In another series the first frame comes after a hold and the way back.
    later = off[LATER - 1 :, 1:] if len(off) >= LATER else off[-1:, 1:]
    first = off[LATER - 1 :, 0] if len(off) >= LATER else off[-1:, 0]
    focus = np.array([[line["defocus_nm"] for line in one] for one in whole])
    focus -= focus[0, 0]
    exposed = [sum(line["dose_e_per_nm2"] for line in one) for one in scouts[: len(whole)]]
    world = delivered(folder, speed)
    summary = subprocess.run(
        [sys.executable, "-m", "pyrotome.daemon", "inspect", "run.nxs", "--json"],
        cwd=folder, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    ledger = json.loads(summary)["dose_e_per_nm2"] if summary else math.nan
    with pyrotome.open(folder / "run.nxs") as recorded:
        charged = [np.nansum(one.tracking.scout_dose_e_per_nm2) for one in recorded.series
                   if one.tracking is not None]  # fmt: skip
    cost = (
        f"{sum(map(len, scouts[: len(whole)])) / len(whole):.1f} scouts a series, charged "
        f"{np.mean(charged):.3f} ({np.max(charged):.3f} at most), exposed {np.mean(exposed):.3f} "
        "e/nm2"
    )
    print(
        f"{mode:8} {len(whole):2} series in {elapsed_s:.0f} s, exit {done.returncode}\n"
        f"         from series {LATER}: rms y {rms(later[..., 0]):.1f}, x "
        f"{rms(later[..., 1]):.1f} nm (first frames {rms(first):.1f}); worst of all "
        f"{np.abs(off).max():.0f} nm; focus {rms(focus[-len(later) :]):.0f} nm\n"
        f"         {cost}; all: world {world:.1f}, ledger {ledger:.1f} e/nm2"
    )
    for text in sorted(set(re.findall(r"tracker: .*", done.stderr)))[:6]:
        print(f"         {text[:150]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modes", nargs="*", default=list(TRACK), choices=[*TRACK, []])
    parser.add_argument("--series", type=int, default=18)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--speed", type=float, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder to keep run file and log in")
    given = parser.parse_args()
    print(
        f"irreproducible jitter {JITTER_NM:.1f} nm an axis; 1.35 times that: {1.35 * JITTER_NM:.1f}"
    )
    for mode in given.modes or list(TRACK):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) if given.keep is None else given.keep / mode
            if given.keep is not None:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            inputs(folder, mode, given.series, given.side, given.seed)
            done, elapsed_s = run(folder, given.speed)
            report(mode, folder, given.side, given.speed, done, elapsed_s)


if __name__ == "__main__":
    main()
