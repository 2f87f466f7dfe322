"""Frames from a detector's wire into the driver, beside LiberTEM-live's receivers.

Our simulators send ready-made Poisson frames as fast as they are taken: Merlin 256 x 256 at 12
bits, SIMPLON 512 x 512 with bitshuffle and LZ4. The same simulator serves, one after the other, our
driver and LiberTEM's receiver, a process of its own; each is timed from the trigger to the last
frame. Printed twice for each: frames as they come, and undone into arrays where they come
compressed. `measure` is what other benchmarks and checks may call.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pyrotome.drivers.dectris.detector import SimplonDetector
from pyrotome.drivers.merlin.detector import MerlinDetector
from pyrotome.protocols.config.rig import DetectorRig
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.chunk import Chunk
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.simulators.servers import merlin, simplon
from pyrotome.simulators.world.microscope import World

FILL = 16
EXPOSURE_S = 0.01


@dataclass(frozen=True)
class Case:
    name: str
    driver: str
    shape: tuple[int, int]
    frames: int


@dataclass(frozen=True)
class Rate:
    frames: int
    seconds: float
    megabytes: float

    @property
    def frames_per_s(self) -> float:
        return self.frames / self.seconds

    def __str__(self) -> str:
        return f"{self.frames_per_s:8.0f} frames/s {self.megabytes / self.seconds:8.0f} MB/s"


CASES = (
    Case("Merlin 256 x 256, 12 bits", "merlin", (256, 256), 8000),
    Case("SIMPLON 512 x 512, bslz4", "dectris-simplon", (512, 512), 4000),
)


async def serve(driver: str) -> None:
    """One simulated detector in a process of its own; it prints its endpoints."""
    clock = ExperimentClock()
    world = World(SimulatorRig(), clock.now_ns())
    if driver == "merlin":
        server = merlin.serve(world, clock, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", FILL)
    else:
        # LiberTEM's receiver takes the end of a series for granted after its last image.
        server = simplon.serve(
            world,
            clock,
            "http://127.0.0.1:0",
            "tcp://127.0.0.1:0",
            FILL,
            simplon.Variant(initialized=True, ends_itself=True),
        )
    async with server as endpoints:
        print(json.dumps(endpoints), flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def served(driver: str) -> AsyncIterator[tuple[str, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", driver, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        control, data = json.loads(await process.stdout.readline())
        yield control, data
    finally:
        process.kill()
        await process.wait()


async def measure(case: Case, control: str, data: str, *, decoded: bool = False) -> Rate:
    """Take all frames of one trigger through the driver.

    Parameters
    ----------
    case : Case
        What to take.
    control, data : str
        Endpoints of a simulated detector in its own process.
    decoded : bool
        Whether compressed frames are undone.
    """
    rig = DetectorRig(driver=case.driver, endpoint=control, options={"data_endpoint": data})
    kind = MerlinDetector if case.driver == "merlin" else SimplonDetector
    detector = kind("detector", rig, ExperimentClock())
    await detector.connect()
    try:
        await detector.arm(case.frames, EXPOSURE_S, case.shape, case.frames)
        size = last = 0
        start = time.perf_counter()
        await detector.trigger()
        for _ in range(case.frames):
            frame = await detector.read_frame()
            compressed = isinstance(frame.data, Chunk)
            if compressed and decoded:
                frame.data.decompress()
            size += memoryview(frame.data.raw).nbytes if compressed else frame.data.nbytes
            last = frame.number
        seconds = time.perf_counter() - start
        assert last == case.frames
        await detector.disarm()
    finally:
        await detector.disconnect()
    return Rate(case.frames, seconds, size * 1e-6)


PEERS = {
    "merlin": """
import json, sys, tempfile, time
import numpy as np
import libertem_qd_mpx
from libertem_live.detectors.merlin import MerlinControl

control, data, frames, rows, columns, decoded = (int(word) for word in sys.argv[1:])
with MerlinControl(port=control) as merlin:
    for name, value in {"NUMFRAMESTOACQUIRE": frames, "NUMFRAMESPERTRIGGER": frames,
                        "ACQUISITIONTIME": 10, "TRIGGERSTART": 5, "COUNTERDEPTH": 12,
                        "IMAGEX": columns, "IMAGEY": rows}.items():
        merlin.set(name, value)
handle = tempfile.mkdtemp() + "/socket"
connection = libertem_qd_mpx.QdConnection(
    data_host="127.0.0.1", data_port=data, frame_stack_size=16, shm_handle_path=handle,
    drain=False, recovery_strategy="immediate_reconnect", huge=False)
connection.start_passive()
time.sleep(0.5)
decoder = libertem_qd_mpx.CamClient(handle)
with MerlinControl(port=control) as merlin:
    merlin.cmd("STARTACQUISITION")
    start = time.perf_counter()
    merlin.cmd("SOFTTRIGGER")
# It says that it is armed when it has seen the first image.
assert connection.wait_for_arm(timeout=20) is not None

def finish():
    pass
""",
    "dectris-simplon": """
import json, sys, tempfile, threading, time
import numpy as np
import libertem_dectris
from libertem_live.detectors.dectris.DEigerClient import DEigerClient

control, data, frames, rows, columns, decoded = (int(word) for word in sys.argv[1:])
client = DEigerClient("127.0.0.1", control)
for name, value in {"nimages": frames, "ntrigger": 1, "trigger_mode": "ints",
                    "compression": "bslz4", "count_time": 0.01, "frame_time": 0.01,
                    "x_pixels_in_detector": columns, "y_pixels_in_detector": rows}.items():
    client.setDetectorConfig(name, value)
client.setStreamConfig("mode", "enabled")
handle = tempfile.mkdtemp() + "/socket"
connection = libertem_dectris.DectrisConnection(
    uri=f"tcp://127.0.0.1:{data}", frame_stack_size=24, num_slots=400,
    bytes_per_frame=rows * columns // 2, huge=False, handle_path=handle)
connection.start_passive()
client.sendDetectorCommand("arm")
assert connection.wait_for_arm(20) is not None
decoder = libertem_dectris.CamClient(handle)
start = time.perf_counter()
trigger = threading.Thread(target=client.sendDetectorCommand, args=("trigger",))
trigger.start()

def finish():
    trigger.join()
    DEigerClient("127.0.0.1", control).sendDetectorCommand("disarm")
""",
}
RECEIVE = """
got = 0
buffer = np.zeros((128, rows, columns), np.uint16)
while got < frames:
    stack = connection.get_next_stack(max_size=128)
    if stack is None:
        break
    count = len(stack)
    if decoded:
        decoder.decode_range_into_buffer(stack, buffer[:count], 0, count)
    decoder.done(stack)
    got += count
seconds = time.perf_counter() - start
assert got == frames, (got, frames)
finish()
print(json.dumps(seconds), flush=True)
import os
os._exit(0)
"""


async def peer(case: Case, control: str, data: str, *, decoded: bool, megabytes: float) -> Rate:
    """The same frames through LiberTEM-live's receiver, in its own process."""
    words = [
        control.rpartition(":")[2],
        data.rpartition(":")[2],
        *(str(n) for n in (case.frames, *case.shape, int(decoded))),
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PEERS[case.driver] + RECEIVE,
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, errors = await asyncio.wait_for(process.communicate(), 120)
    if process.returncode != 0:
        raise RuntimeError(errors.decode()[-2000:])
    return Rate(case.frames, json.loads(told.splitlines()[-1]), megabytes)


async def run(frames: int | None, rounds: int) -> None:
    with_peer = importlib.util.find_spec("libertem_live") is not None
    for case in CASES:
        sized = case if frames is None else Case(case.name, case.driver, case.shape, frames)
        print(f"{case.name}, {sized.frames} frames, best of {rounds}")
        async with served(case.driver) as (control, data):
            for decoded in (False, True) if case.driver != "merlin" else (True,):
                what = "as arrays" if decoded else "as they come"
                ours = [await measure(sized, control, data, decoded=decoded) for _ in range(rounds)]
                best = min(ours, key=lambda rate: rate.seconds)
                print(f"  driver, {what:<23}{best}")
                if with_peer:
                    theirs = [
                        await peer(sized, control, data, decoded=decoded, megabytes=best.megabytes)
                        for _ in range(rounds)
                    ]
                    fastest = min(theirs, key=lambda rate: rate.seconds)
                    ratio = best.frames_per_s / fastest.frames_per_s
                    print(f"  LiberTEM-live, {what:<16}{fastest}   ours / theirs {ratio:.2f}")
    if not with_peer:
        print("LiberTEM-live is not installed (extra 'interop'): no peer to compare with")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=[case.driver for case in CASES], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve))
    else:
        asyncio.run(run(arguments.frames, arguments.rounds))


if __name__ == "__main__":
    main()
