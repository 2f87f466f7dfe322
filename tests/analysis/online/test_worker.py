"""The online analysis as a process, over a real ZeroMQ link whose daemon end the test plays."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import zmq

from pyrotome.analysis.core.arrays import binned
from pyrotome.analysis.denoise.frame import denoise_bm3d
from pyrotome.analysis.online.worker import LEAST_CREDIT, QUEUE_BYTES, credit_of
from pyrotome.analysis.tomography.image_levels import without_vacuum
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.projector import project
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.config.pipeline import AnalysisStep, planned_results
from pyrotome.protocols.config.recipe import BeamSettings
from pyrotome.protocols.messages.credit_link import parse_upstream
from pyrotome.protocols.messages.manifest import RunManifest, StackPlan
from pyrotome.protocols.messages.parent_pipe import dump_config
from pyrotome.protocols.messages.process import AnalysisConfig
from pyrotome.protocols.messages.stream import Message, array_of
from tests.support.denoised_frames import denoised_alike

BM3D = {"denoise": {"method": "bm3d", "noise": "white", "variance": 400}}
SIRT = {"reconstruct": {"method": "sirt", "iterations": 10, "binning": 2}}
TILTS = (-40.0, -20.0, 0.0, 20.0, 40.0)


def manifest_of(steps, stacks, side):
    """A manifest; `stacks` are (name, kind, asked angles, with results)."""
    analysis = [AnalysisStep.model_validate(step) for step in steps]
    return RunManifest(
        run="r", title="t", software="test", started_ns=0, speed=1.0, simulated=True,
        recipe_text="", rig_text="", rig_name="rig", detector="test", holds=(), holds_before={},
        telemetry={}, sample={"name": "s"}, analysis=tuple(analysis),
        beam=BeamSettings.model_validate(
            {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [side, side],
             "pixel_size": "1 nm"}
        ),
        stacks=tuple(
            StackPlan(
                name=name, kind=kind, frames=len(tilts), tilt_deg=tilts,
                results=tuple(planned_results(analysis, kind, len(tilts), (side, side), 1.0))
                if with_results else (),
            )
            for name, kind, tilts, with_results in stacks
        ),
    )  # fmt: skip


class Daemon:
    """The daemon's end of the link and of the process."""

    def __init__(self, manifest, file="none.nxs"):
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.set(zmq.LINGER, 0)
        self.router.set(zmq.ROUTER_MANDATORY, 1)
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        config = AnalysisConfig(link=f"tcp://127.0.0.1:{port}", file=str(file), manifest=manifest)
        self.child = subprocess.Popen(
            [sys.executable, "-m", "pyrotome.analysis.online.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.child.stdin.write(dump_config(config))
        self.child.stdin.flush()
        self.ready = json.loads(self.child.stdout.readline())
        self.messages = []  # (wall time, kind, body, payload)
        self.frames_sent = 0

    def send(self, topic, header, payload=()):
        self.router.send_multipart([b"analysis", *Message(topic, header, payload).parts()])

    def frame(self, series, index, data, **more):
        header = {"type": "frame", "series": series, "index": index, **more}
        payload = ()
        if data is not None:
            header |= {"shape": list(data.shape), "dtype": data.dtype.name}
            payload = (np.ascontiguousarray(data),)
        self.send("frame/test", header | more, payload)
        self.frames_sent += 1

    def receive_until(self, enough, timeout_s=60.0):
        deadline = time.monotonic() + timeout_s
        while not enough():
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"nothing more came after {[m[1:3] for m in self.messages[-5:]]}"
            if self.router.poll(left_s * 1000):
                identity, *parts = self.router.recv_multipart()
                assert identity == b"analysis"
                self.messages.append((time.monotonic(), *parse_upstream(parts)))

    def finish(self):
        self.send("end", {})
        self.receive_until(lambda: self.of("done"))
        self.receive_until(lambda: self.of("status")[-1]["pending"] == "")

    def of(self, kind):
        return [body for _, k, body, _ in self.messages if k == kind]

    def results(self, recorded=True):
        return {
            (body["series"], body["name"], body.get("index")): (
                body,
                array_of(Message("result", body, tuple(payload))),
            )
            for _, kind, body, payload in self.messages
            if kind == "result" and body.get("record", True) is recorded
        }

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(10)
        self.child.stdin.close()
        self.child.stdout.close()
        self.router.close()
        self.context.term()


@pytest.fixture
def start():
    daemons = []

    def begin(*args, file="none.nxs"):
        daemons.append(Daemon(manifest_of(*args), file))
        return daemons[-1]

    yield begin
    for daemon in daemons:
        daemon.close()


def series_frames(side, tilts=TILTS):
    z, x = np.mgrid[:side, :side] - (side - 1) / 2
    truth = np.repeat((x**2 + z**2 < (side / 4) ** 2)[None], side, axis=0)
    truth[: side // 4] = 0
    rng = np.random.default_rng(9)
    return rng.poisson(project(truth * 1.0, np.array(tilts)) + 1).astype(np.uint16)


def test_a_whole_run(start):
    side = 48
    daemon = start(
        [BM3D, SIRT],
        [
            ("reference", "reference", (0.0, 0.0), True),
            ("series_001", "series", TILTS, True),
            ("bare", "ramp", (0.0,), False),
        ],
        side,
    )
    assert daemon.ready == {}
    daemon.receive_until(lambda: daemon.of("hello"))
    assert daemon.of("hello")[0]["credit"] >= LEAST_CREDIT

    frames = series_frames(side)
    daemon.frame("reference", 0, frames[0], tilt_deg=0.0)
    daemon.frame("reference", 1, frames[1], tilt_deg=0.0)
    daemon.frame("bare", 0, frames[1], tilt_deg=0.0)
    daemon.send("event", {"type": "event", "level": "info", "message": "not a frame"})
    read_back = [angle + 0.25 for angle in TILTS]
    for index in (0, 1, 2, 4):
        daemon.frame("series_001", index, frames[index], tilt_deg=read_back[index])
    daemon.frame("series_001", 3, None, tilt_deg=read_back[3], lost=True)
    daemon.finish()

    assert sum(body["frames"] for body in daemon.of("credit")) == daemon.frames_sent == 8
    shown = daemon.results(recorded=False)
    assert {name for _, name, _ in shown} == {"preview", "preview_x", "preview_y", "preview_z"}
    assert shown["series_001", "preview", None][1].shape == (24, 24, 24)
    assert daemon.of("done") == [{"frames": 8, "results": 10 + 4 * 3 + 1}]
    assert daemon.of("status")[-1]["backlog"] == 0
    assert max(body["backlog"] for body in daemon.of("status")) >= 2
    events = [body["message"] for body in daemon.of("event")]
    assert "series_001 frame 3 (20 deg) is lost; analysed without it" in events

    results = daemon.results()
    assert len(results) == 10
    denoised = []
    for index in (0, 1, 2, 4):
        body, data = results["series_001", "denoised", index]
        expected, _ = denoise_bm3d(frames[index], "white", 400)
        assert data.dtype == np.float32
        assert denoised_alike(data, expected, frames[index])
        assert body["parameters"]["variance"] == 400
        assert 0 < body["elapsed_s"] <= body["staleness_s"] < 60
        denoised.append(binned(data, 2))
    assert results["reference", "denoised", 1][1].shape == (side, side)
    body, volume = results["series_001", "volume", None]
    assert body["shape"] == [24, 24, 24]
    expected = sirt(
        without_vacuum(np.stack(denoised)), np.array([read_back[k] for k in (0, 1, 2, 4)]), 10
    )
    assert np.allclose(volume, expected.volume, atol=1e-3)
    for axis, plane in {"y": volume[12], "z": volume[:, 12], "x": volume[:, :, 12]}.items():
        _, data = results["series_001", f"slice_{axis}", None]
        assert np.array_equal(data, plane)

    daemon.child.stdin.close()
    assert daemon.child.wait(5) == 0


def test_bad_frames_are_told_and_credited(start):
    daemon = start([SIRT], [("series_001", "series", TILTS, True)], 32)
    frames = series_frames(32)
    daemon.receive_until(lambda: daemon.of("hello"))
    header = {"type": "frame", "series": "series_001", "index": 0, "dtype": "uint16"}
    daemon.send("frame/test", header | {"shape": [32, 32]}, (b"short",))
    daemon.frame("elsewhere", 0, frames[0])
    daemon.frame("series_001", 1, frames[1], tilt_deg=TILTS[1])
    daemon.frame("series_001", 1, frames[1], tilt_deg=TILTS[1])
    daemon.frame("series_001", "two", frames[1])
    daemon.frame("series_001", 2, frames[2])
    daemon.router.send_multipart([b"analysis", b"frame/test", b"{no json"])
    daemon.finish()
    assert sum(body["frames"] for body in daemon.of("credit")) == 6
    told = "\n".join(body["message"] for body in daemon.of("event"))
    for part in (
        "payload of 5 bytes", "frame 0 (-40 deg) is lost; analysed without it", "came twice",
        "index is 'two'", "0 deg assumed", "cannot be read",
        "series_001: only 3 of 5 frames came; there is no volume",
    ):  # fmt: skip
        assert part in told
    assert not daemon.results()
    assert {name for _, name, _ in daemon.results(recorded=False)} == {
        "preview_x", "preview_y", "preview_z"
    }  # fmt: skip


def test_status_goes_on_while_a_frame_is_denoised_and_the_end_of_stdin_ends_it(start):
    side = 320
    daemon = start([BM3D], [("reference", "reference", (0.0,) * 4, True)], side)
    daemon.receive_until(lambda: daemon.of("hello"))
    frame = np.random.default_rng(1).poisson(20, (side, side)).astype(np.uint16)
    for index in range(3):
        daemon.frame("reference", index, frame)
    daemon.receive_until(lambda: daemon.of("result"), 120)
    started = next(t for t, kind, b, _ in daemon.messages if b.get("pending", "").startswith("ref"))
    ended = next(t for t, kind, _, _ in daemon.messages if kind == "result")
    assert ended - started > 1.2  # otherwise nothing is shown here
    told = [t for t, kind, _, _ in daemon.messages if kind == "status" and started <= t <= ended]
    assert max(np.diff([*told, ended])) < 1.0
    busy = [b for t, kind, b, _ in daemon.messages if kind == "status" and started < t < ended]
    assert all(b["backlog"] >= 1 for b in busy)
    assert busy[-1]["staleness_s"] > 1
    assert "reference frame 0 of 4" in busy[-1]["pending"]

    closed = time.monotonic()
    daemon.child.stdin.close()
    assert daemon.child.wait(5) == 0
    assert time.monotonic() - closed < 1.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_it_leaves_nothing(start, number):
    daemon = start([SIRT], [("series_001", "series", TILTS, True)], 256)
    daemon.receive_until(lambda: daemon.of("hello"))
    for index, data in enumerate(series_frames(256)):
        daemon.frame("series_001", index, data, tilt_deg=TILTS[index])
    family = [psutil.Process(daemon.child.pid), *psutil.Process(daemon.child.pid).children()]
    os.kill(daemon.child.pid, number)
    assert daemon.child.wait(2) == -number
    assert not any(process.is_running() for process in family)


def test_a_bad_configuration_is_refused_in_one_line():
    child = subprocess.run(
        [sys.executable, "-m", "pyrotome.analysis.online.worker"],
        input='{"link": 3}\n', capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert child.returncode == 1
    (line,) = child.stdout.splitlines()
    assert "configuration" in json.loads(line)["error"]


def test_credit_is_bounded_by_memory():
    def credit(side):
        return credit_of(manifest_of([], [], side))

    assert credit(1024) * 1024 * 1024 * 4 == QUEUE_BYTES
    assert credit(16384) == LEAST_CREDIT


def test_frames_without_pixels_are_read_from_the_growing_file(start, tmp_path):
    stacks = [("series_001", "series", TILTS, True)]
    manifest = manifest_of([SIRT], stacks, 32)
    path = tmp_path / "run.nxs"
    file = RunFile(path, manifest)
    daemon = start([SIRT], stacks, 32, file=path)
    daemon.receive_until(lambda: daemon.of("hello"))
    frames = [frame.astype(np.uint16) for frame in series_frames(32)]
    headers = [
        {"series": "series_001", "index": k, "tilt_deg": tilt} for k, tilt in enumerate(TILTS)
    ]
    for index, frame in enumerate(frames[:2]):
        daemon.frame("series_001", index, frame, tilt_deg=TILTS[index])
    for index in (2, 3, 4):  # told before they are in the file
        daemon.frame("series_001", index, None, tilt_deg=TILTS[index], in_file=True)
    for index in (2, 3, 4):
        time.sleep(0.3)
        file.write_frame(headers[index], frames[index])
        file.flush()
    daemon.finish()
    assert sum(body["frames"] for body in daemon.of("credit")) == 2
    assert daemon.of("status")[-1]["frames"] == 5
    _, volume = daemon.results()["series_001", "volume", None]
    images = without_vacuum(np.stack([binned(f, 2) for f in frames]))
    expected = sirt(images, np.array(TILTS), 10)
    assert np.allclose(volume, expected.volume, atol=1e-3)
    file.close("complete", None, None, "")


def test_offsets_come_over_the_link(start):
    align = {"align": {"method": "phase-correlation", "axis": "0 deg"}}
    daemon = start([{"correct": False}, align, SIRT], [("series_001", "series", TILTS, True)], 48)
    frames = series_frames(48)
    for index, frame in enumerate(frames):
        # All that the field shows of the specimen moves by 12 px to and fro.
        down = 12 * (index % 2)
        moved = np.roll(frame, down, axis=0)
        daemon.frame("series_001", index, moved, tilt_deg=TILTS[index])
        found = {"offset_nm": [down, 0.0], "offset_sd_nm": [0.5, 0.5]}
        daemon.send(
            "offset/test", {"type": "offset", "series": "series_001", "index": index} | found
        )
    daemon.send("offset/test", {"type": "offset", "series": "series_001", "index": 0})
    daemon.finish()
    _, shifts = daemon.results()["series_001", "shifts", None]
    assert shifts[:, 0] == pytest.approx([0, 12, 0, 12, 0], abs=1.0)
    assert sum("offset that cannot be read" in body["message"] for body in daemon.of("event")) == 1
