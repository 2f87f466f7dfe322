"""Frames per second into a file: the recorder process, and a bare h5py loop beside it.

Both write the same 1024 x 1024 frames of Poisson counts with the same compression, one frame a
chunk, from the first frame to the closed file. The recorder gets them from another process with
credit, with all stamps, in SWMR mode; the bare loop has them in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import zmq

from pyrotome.protocols.config.recipe import BeamSettings, Sample
from pyrotome.protocols.messages import credit_link as link
from pyrotome.protocols.messages.manifest import RunManifest, StackPlan
from pyrotome.protocols.messages.parent_pipe import dump_config
from pyrotome.protocols.messages.process import RecorderConfig
from pyrotome.protocols.messages.stream import Message

SIDE = 1024
STARTED_NS = 1_800_000_000_000_000_000


def poisson_frames(count: int = 24, mean: float = 2.0) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.poisson(mean, (SIDE, SIDE)).astype("<u2") for _ in range(count)]


def bare_loop(path: Path, frames: list[np.ndarray], count: int) -> float:
    start = time.perf_counter()
    with h5py.File(path, "w", libver="v110") as file:
        data = file.create_dataset(
            "data",
            (count, SIDE, SIDE),
            "<u2",
            chunks=(1, SIDE, SIDE),
            **hdf5plugin.Bitshuffle(nelems=0, cname="lz4"),
        )
        for index in range(count):
            data[index] = frames[index % len(frames)]
    return count / (time.perf_counter() - start)


def manifest(count: int) -> RunManifest:
    beam = {
        "voltage": "300 kV",
        "current": "2 pA",
        "dwell": "500 ns",
        "frame": (SIDE, SIDE),
        "pixel_size": "1.04 nm",
    }
    return RunManifest(
        run="benchmark",
        title="Recording rate",
        software="pyrotome benchmark",
        started_ns=STARTED_NS,
        speed=1.0,
        simulated=True,
        recipe_text="",
        rig_text="",
        rig_name="benchmark",
        sample=Sample(name="none", elements=["Cu"]),
        beam=BeamSettings.model_validate(beam),
        detector="benchmark",
        stacks=(
            StackPlan(name="series_001", kind="series", frames=count, tilt_deg=(0.0,) * count),
        ),
        holds=(),
        holds_before={"series_001": 0},
        telemetry={},
    )


def frame_header(index: int) -> dict[str, object]:
    return {
        "type": "frame", "run": "benchmark", "seq": index, "series": "series_001", "index": index,
        "t_ns": STARTED_NS + index * 1_000_000, "tilt_deg": 0.0, "nominal_tilt_deg": 0.0,
        "temperature_c": 200.0, "dose_e_per_nm2": 5.77, "dose_total_e_per_nm2": 5.77 * (index + 1),
        "exposure_s": 0.5, "frame_number": index + 1, "shape": [SIDE, SIDE], "dtype": "uint16",
    }  # fmt: skip


def through_recorder(path: Path, frames: list[np.ndarray], count: int) -> float:
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.SNDHWM, 0)
    endpoint = f"ipc://{path}.link"  # what the daemon uses
    router.bind(endpoint)
    config = RecorderConfig(link=endpoint, file=str(path), manifest=manifest(count))
    child = subprocess.Popen(
        [sys.executable, "-m", "pyrotome.daemon.recording.recorder"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(dump_config(config))
    child.stdin.flush()
    ready = json.loads(child.stdout.readline())
    if "error" in ready:
        raise RuntimeError(ready["error"])
    peer, credit, sent, done = link.RECORDER.encode(), 0, 0, False
    start = 0.0
    while not done:
        if credit == 0 or sent > count or router.poll(0):
            _, *parts = router.recv_multipart()
            kind, body, _ = link.parse_upstream(parts)
            if kind == "hello":
                credit, start = body["credit"], time.perf_counter()
            elif kind == "credit":
                credit += body["frames"]
            elif kind == "event":
                raise RuntimeError(body["message"])
            done = kind == "done"
        elif sent < count:
            data = frames[sent % len(frames)]
            parts = Message("frame/benchmark", frame_header(sent), (data,)).parts()
            router.send_multipart([peer, *parts], copy=False)
            sent, credit = sent + 1, credit - 1
        elif sent == count:
            end = Message(link.END_TOPIC, {"status": "complete"}).parts()
            router.send_multipart([peer, *end])
            sent += 1
    rate = count / (time.perf_counter() - start)
    child.stdin.close()
    child.wait(30)
    child.stdout.close()
    router.close(0)
    context.term()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1500, help="frames per round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    frames = poisson_frames()
    bare: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            path = Path(folder) / f"{number}.nxs"
            bare.append(bare_loop(path, frames, arguments.frames))
            path.unlink()
            ours.append(through_recorder(path, frames, arguments.frames))
            path.unlink()
    megabytes = SIDE * SIDE * 2e-6
    for name, rates in (("bare h5py loop", bare), ("recorder process", ours)):
        rate = float(np.median(rates))
        print(f"{name:<18}{rate:8.0f} frames/s {rate * megabytes:8.0f} MB/s")
    print(f"{'ratio':<18}{np.median(ours) / np.median(bare):8.2f}")


if __name__ == "__main__":
    main()
