"""The recorder process at the other end of a real link, and a small run for it to record."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from pyrotome.protocols.config.pipeline import ResultPlan
from pyrotome.protocols.config.recipe import BeamSettings, Sample
from pyrotome.protocols.messages import credit_link as link
from pyrotome.protocols.messages.manifest import (
    HoldPlan,
    Interruption,
    RunManifest,
    ScoutGrid,
    ScoutsPlan,
    StackPlan,
    TrackingPlan,
)
from pyrotome.protocols.messages.parent_pipe import dump_config
from pyrotome.protocols.messages.process import RecorderConfig
from pyrotome.protocols.messages.stream import Message

T0 = 1_800_000_000_000_000_000
SHAPE = (24, 32)
TILTS = (-20.0, -10.0, 0.0, 10.0, 20.0)
S = 1_000_000_000


def a_manifest(**changes: Any) -> RunManifest:
    results = (
        ResultPlan(
            name="denoised", step="denoise", process=1, shape=(5, *SHAPE), dtype="float32",
            parameters={"method": "bm3d", "noise": "g4", "variance": 137.0},
            axes=("frame", "y", "x"), pixel_nm=1.04, per_frame=True,
        ),
        ResultPlan(
            name="volume", step="reconstruct", process=2, shape=(6, 8, 8), dtype="float32",
            parameters={"method": "sirt", "iterations": 30, "binning": 4},
            axes=("y", "z", "x"), pixel_nm=4.16,
        ),
    )  # fmt: skip
    stacks = (
        StackPlan(name="reference_001", kind="reference", frames=2, tilt_deg=(0.0, 0.0)),
        StackPlan(name="series_001", kind="series", frames=5, tilt_deg=TILTS, results=results),
        StackPlan(name="series_002", kind="series", frames=5, tilt_deg=TILTS, results=results),
        StackPlan(name="ramp_001", kind="ramp", frames=1, tilt_deg=(0.0,)),
    )
    beam = {
        "voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": SHAPE,
        "pixel_size": "1.04 nm",
    }  # fmt: skip
    fields: dict[str, Any] = {
        "run": "run-1", "title": "Sintering of Cü", "software": "pyrotome 0.1.0",
        "started_ns": T0 + 123_456, "speed": 1.0, "simulated": True,
        "recipe_text": "title: Sintering\n", "rig_text": "name: sim\n", "rig_name": "sim",
        "sample": Sample(name="Cu NP-150", elements=["Cu", "O"]),
        "beam": BeamSettings.model_validate(beam), "detector": "merlin",
        "instruments": {"heater": "DENSsolutions Impulse", "stage": "temscript"},
        "stacks": stacks,
        "holds": (HoldPlan(index=1, standby_c=200.0, target_c=350.0, requested_s=5.0),),
        "holds_before": {"series_001": 0, "series_002": 1},
        "telemetry": {
            "heater": {"temperature_c": "degC", "power_mw": "mW"},
            "stage": {"tilt_deg": "degree"},
        },
    }  # fmt: skip
    return RunManifest(**(fields | changes))


GRIDS = (
    ScoutGrid(name="field_8", kind="scout", shape=(6, 8), pixel_nm=4.16),
    ScoutGrid(name="field_4", kind="scout", shape=(3, 4), pixel_nm=8.32),
    ScoutGrid(name="search", kind="wide", shape=(18, 24), pixel_nm=4.16),
)


def scouted(*accounts: str) -> TrackingPlan:
    """The tracking of a run that may take scouts."""
    plan = ScoutsPlan(accounts=accounts, grids=GRIDS)
    return TrackingPlan(settings={}, lost_beyond_nm=10.0, scouts=plan)


def scout(series: str, number: int, grid: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    """Header and picture of a scout, known by its number."""
    header = {
        "type": "scout", "series": series, "index": 0, "scan": GRIDS[grid].kind,
        "t_ns": T0 + number * S // 10, "tilt_deg": 2.0 * number, "dose_e_per_nm2": 0.02,
        "shift_nm": [10.0 * number, -1.0], "defocus_nm": 50.0, "field_nm": 33.28,
    }  # fmt: skip
    seed = [*series.encode(), number]
    return header, np.random.default_rng(seed).poisson(3.0, GRIDS[grid].shape).astype("<u2")


class Daemon:
    """The daemon's end of the link, and the recorder as its child."""

    def __init__(
        self,
        path: Path,
        manifest: RunManifest,
        resumed: Interruption | None = None,
        wait: bool = True,
    ) -> None:
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.path, self.manifest = path, manifest
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.child = subprocess.Popen(
            [sys.executable, "-m", "pyrotome.daemon.recording.recorder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        config = RecorderConfig(
            link=f"tcp://127.0.0.1:{port}", file=str(path), manifest=manifest, resumed=resumed
        )
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(dump_config(config))
        self.child.stdin.flush()
        self.seq = 0
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        assert self.child.stdout is not None
        assert select.select([self.child.stdout], [], [], 30)[0], "the recorder says nothing"
        self.ready = json.loads(self.child.stdout.readline())

    def start(self) -> int:
        assert self.ready == {"file": str(self.path)}
        return self.wait_for("hello")["credit"]

    def pump(self, timeout_s: float = 0.0) -> None:
        deadline = time.monotonic() + timeout_s
        while self.router.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            identity, *parts = self.router.recv_multipart()
            assert identity == link.RECORDER.encode()
            kind, body, _ = link.parse_upstream(parts)
            self.received.append((kind, body))

    def wait_until(self, there: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not there():
            assert time.monotonic() < deadline, f"not in time; received {self.received}"
            self.pump(0.05)

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        return [body for k, body in self.received if k == kind]

    def wait_for(self, kind: str) -> dict[str, Any]:
        self.wait_until(lambda: bool(self.bodies(kind)))
        return self.bodies(kind)[-1]

    @property
    def credit_returned(self) -> int:
        return sum(body["frames"] for body in self.bodies("credit"))

    def wait_for_credit(self, frames: int) -> None:
        self.wait_until(lambda: self.credit_returned >= frames)
        assert self.credit_returned == frames

    def wait_for_event(self, text: str) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [body for body in self.bodies("event") if text in body["message"]]

        self.wait_until(lambda: bool(found()))
        return found()[-1]

    def send(self, topic: str, header: dict[str, Any], *payload: Any) -> None:
        self.send_parts(*Message(topic, header, payload).parts())

    def send_parts(self, *parts: Any) -> None:
        self.router.send_multipart([link.RECORDER.encode(), *parts])

    def frame(self, series: str, index: int, /, **changes: Any) -> None:
        self.seq += 1
        header = {
            "type": "frame", "run": "run-1", "seq": self.seq, "series": series, "index": index,
            "t_ns": T0 + self.seq * S, "tilt_deg": -20.0 + 10 * index + 0.01,
            "nominal_tilt_deg": -20.0 + 10 * index, "temperature_c": 200.0 + 0.1 * index,
            "dose_e_per_nm2": 5.77, "dose_total_e_per_nm2": 5.77 * self.seq, "exposure_s": 0.5,
            "frame_number": index + 1, "shape": list(SHAPE), "dtype": "uint16",
        } | changes  # fmt: skip
        payload = () if header.get("lost") else (picture(series, index),)
        self.send("frame/merlin", header, *payload)

    def telemetry(self, index: int, **values: float | None) -> None:
        header = {"type": "telemetry", "run": "run-1", "seq": index, "t_ns": T0 + index * S // 100}
        self.send("telemetry/heater", header | {"values": values})

    def end(self, status: str = "complete", **changes: Any) -> dict[str, Any]:
        self.send(
            link.END_TOPIC,
            {"status": status, "ended_ns": T0 + 3600 * S, "dose_e_per_nm2": 63.5} | changes,
        )
        done = self.wait_for("done")
        assert self.child.wait(20) == 0
        return done

    def parent_dies(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait(20)

    def close(self) -> None:
        self.router.close(0)
        self.context.term()
        if self.child.poll() is None:
            self.child.kill()
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe is not None
            pipe.close()
        self.child.wait(10)


def picture(series: str, index: int) -> np.ndarray:
    seed = [*series.encode(), index]
    return np.random.default_rng(seed).poisson(3.0, SHAPE).astype("<u2")


def nexus_errors(path: Path, entry: str) -> tuple[int, str]:
    """Errors that nxvalidate counts; its exit code is always 0."""
    tool = Path(sys.executable).with_name("nxvalidate")
    answer = subprocess.run(
        [tool, "-e", "-p", entry, path], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    count = answer.rsplit("Total number of errors:", 1)[-1]
    return int("".join(c for c in count.split("\x1b")[0] if c.isdigit())), answer
