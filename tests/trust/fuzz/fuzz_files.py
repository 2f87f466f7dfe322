"""Run files that are cut off, and whose bits have flipped: refused, or read right.

Each input is looked at in a fork, as HDF5 may crash or hang on damage: its crashes are counted by
themselves, and are no crash of ours. What `examine` says can be read is read; pixels of frames are
in chunks with their own checksum-less compression, so that one that differs is counted as damage
that nobody can see, and everything else must be as it was. Some of them are repaired for real by
`recover`, after which they are never worse than before.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from examine_apart import examine_apart
from fuzz_count import Count

from pyrotome.daemon.recording.recovery import recover
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.config.recipe import BeamSettings, Sample
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.manifest import HoldPlan, RunManifest, StackPlan
from pyrotome.protocols.runfile import layout

STARTED_NS = 1_800_000_000_000_000_000
FRAMES = 6
# One of so many is repaired for real, which starts a process.
REPAIRED = 100


def manifest() -> RunManifest:
    beam = {
        "voltage": "300 kV", "current": "2 pA", "dwell": "1 us", "frame": (16, 16),
        "pixel_size": "1 nm",
    }  # fmt: skip
    stacks = tuple(
        StackPlan(name=f"series_{k:03d}", kind="series", frames=FRAMES, tilt_deg=(0.0,) * FRAMES)
        for k in (1, 2)
    )
    return RunManifest(
        run="fuzz", title="Fuzz", software="pyrotome", started_ns=STARTED_NS, speed=1.0,
        simulated=True, recipe_text="", rig_text="", rig_name="fuzz",
        sample=Sample(name="none", elements=["Cu"]), beam=BeamSettings.model_validate(beam),
        detector="fuzz", stacks=stacks,
        holds=(HoldPlan(index=1, standby_c=200, target_c=350, requested_s=1.0),),
        holds_before={stack.name: 0 for stack in stacks},
        telemetry={"heater": {"temperature_c": "degC"}},
    )  # fmt: skip


def write(path: Path, closed: bool) -> None:
    """A run file with some frames, closed or as a killed recorder leaves it."""
    file = RunFile(path, manifest())
    rng = np.random.default_rng(1)
    for k in range(2 * FRAMES - 3):
        header = {
            "series": f"series_{1 + k // FRAMES:03d}",
            "index": k % FRAMES,
            "t_ns": STARTED_NS + k,
        }
        file.write_frame(header, rng.poisson(3, (16, 16)).astype("<u2"))
        file.add_telemetry("heater", STARTED_NS + k, {"temperature_c": 20.0 + k})
        file.flush()
    if closed:
        file.close("complete", STARTED_NS + 100, 1.0, "")


def sources(folder: Path) -> list[bytes]:
    """Bytes of a complete file, and of one whose recorder was killed."""
    import os

    complete, killed = folder / "complete.nxs", folder / "killed.nxs"
    write(complete, closed=True)
    child = os.fork()
    if child == 0:
        write(killed, closed=False)
        os._exit(0)  # as if killed: nothing of HDF5's is written at the end
    os.waitpid(child, 0)
    return [complete.read_bytes(), killed.read_bytes()]


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """Cut off, bits flipped, a page lost or exchanged, or bytes put in."""
    kind, size = int(rng.random() * 6), len(raw)
    at = int(rng.random() * size)
    # Most of what holds a file together stands at its beginning.
    early = int(rng.random() ** 3 * size)
    match kind:
        case 0:
            return raw[:at]
        case 1:
            changed = bytearray(raw)
            for _ in range(1 + int(rng.random() * 8)):
                changed[int(rng.random() ** 2 * size)] ^= 1 << int(rng.random() * 8)
            return bytes(changed)
        case 2:
            return raw[:early] + bytes(min(4096, size - early)) + raw[early + 4096 :]
        case 3:
            return raw[:early] + rng.randbytes(min(64, size - early)) + raw[early + 64 :]
        case 4:
            return raw[:early] + raw[at : at + 512] + raw[early + 512 :]
        case _:
            return raw[:at] + rng.randbytes(1 + int(rng.random() * 32)) + raw[at:]


def fuzz_files(count: int, seed: int) -> Count:
    """So many damaged files."""
    found = Count("damaged run files")
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = sources(folder)
        file = folder / "damaged.nxs"
        for number in range(count):
            raw = damaged(seeds[number % len(seeds)], rng)
            file.write_bytes(raw)
            found.inputs += 1
            began_s = time.monotonic()
            try:
                looked = examine_apart(file)
                if looked.problem is None:
                    found.more["readable"] += 1
                    check(found, number, looked.report)
                else:
                    found.refused += 1
                    if "HDF5 crashed" in looked.problem:
                        found.more["crashes of HDF5, caught"] += 1
                if file.read_bytes() != raw:
                    found.findings.append(f"input {number}: looking at it has changed it")
                if number % REPAIRED == 0:
                    repair(found, number, file, folder)
            except BadInput:
                found.refused += 1
            except Exception as error:
                found.findings.append(f"input {number}: {error!r}")
            found.slowest_s = max(found.slowest_s, time.monotonic() - began_s)
    return found


def check(found: Count, number: int, report: dict[str, Any]) -> None:
    """What is said of a file is possible."""
    frames = report.get("frames")
    if not isinstance(frames, int) or not 0 <= frames <= 2 * FRAMES:
        found.findings.append(f"input {number}: {frames} frames of {2 * FRAMES}")


def repair(found: Count, number: int, file: Path, folder: Path) -> None:
    """Recover it for real: it is good then, and once is enough; or it is as it was before."""
    found.more["repaired for real"] += 1
    before = file.read_bytes()
    try:
        first = recover(file, 60.0)
    except BadInput:
        if file.read_bytes() != before:
            found.findings.append(f"input {number}: refused, but not as it was")
        return
    once = file.read_bytes()
    again = recover(file, 60.0)
    if again.repaired or file.read_bytes() != once:
        found.findings.append(f"input {number}: recovering twice is not recovering once")
    if first.image_keys.keys() != again.image_keys.keys():
        found.findings.append(f"input {number}: other stacks the second time")
    recorded = sum(int((keys == layout.RECORDED).sum()) for keys in again.image_keys.values())
    if recorded > 2 * FRAMES:
        found.findings.append(f"input {number}: {recorded} frames")
    for left in folder.glob("damaged.nxs.*"):
        found.findings.append(f"input {number}: left behind {left.name}")
        shutil.rmtree(left, ignore_errors=True)
        left.unlink(missing_ok=True)
