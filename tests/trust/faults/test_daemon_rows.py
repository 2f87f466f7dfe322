"""Rows of the catalogue: faults of the daemon, its processes and its subscribers during a run.

The daemon is in this process, and the microscope beside it; what ends the daemon itself is in
`test_process_rows.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import resource
import shutil
import socket
import threading
import time
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import zmq

from pyrotome.daemon.control.server import ControlServer
from pyrotome.daemon.runtime.clock_record import read_pair
from pyrotome.protocols.runfile.layout import CLOCK, HOLDS

RECORDER, ANALYSIS = "pyrotome.daemon.recording.recorder", "pyrotome.analysis.online.worker"
WITH_ANALYSIS = {"analysis": [{"reconstruct": {"method": "sirt", "iterations": 1, "binning": 2}}]}


def child(module: str) -> psutil.Process:
    """The process of this daemon that runs a module."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            if process.cmdline()[2] == module:
                return process
    pytest.fail(f"no {module}")


# Recorder


@pytest.mark.fault(
    broken="the recorder is killed", must="run stopped, exit 1, heater cold", within_s=30
)
async def test_recorder_killed(bench: Any) -> None:
    async def strike(_: Any) -> None:
        child(RECORDER).kill()

    ended = await bench.run(strike, recovered=True)
    assert (ended.outcome.status, ended.code) == ("failed", 1)
    assert "the recorder died" in ended.outcome.reason
    assert ended.found["status"] == "interrupted"


@pytest.mark.fault(
    broken="the recorder is killed as the specimen is heated",
    must="the file has every frame of how it was before", within_s=30,
)  # fmt: skip
async def test_recorder_killed_as_the_specimen_changes(bench: Any) -> None:
    async def strike(_: Any) -> None:
        child(RECORDER).kill()

    ended = await bench.run(strike, at="hold", recovered=True)
    assert "the recorder died" in ended.outcome.reason
    assert [series["frames"] for series in ended.found["series"]] == [3, 0]


@pytest.mark.fault(broken="the recorder hangs for 2 s", must="everything is recorded", within_s=40)
async def test_recorder_hung(bench: Any) -> None:
    async def strike(_: Any) -> None:
        recorder = child(RECORDER)
        recorder.suspend()
        await asyncio.sleep(2.0)
        recorder.resume()

    (await bench.run(strike)).complete()


@pytest.mark.fault(
    broken="the disk is full for 3 s", must="it is said; everything is recorded", within_s=60
)
async def test_disk_full(bench: Any) -> None:
    async def strike(daemon: Any) -> None:
        pid = child(RECORDER).pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        size = daemon.experiment.output.stat().st_size
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
        await bench.until(lambda: "cannot be written" in "".join(bench.said), daemon)
        await asyncio.sleep(1.0)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    ended = await bench.run(strike)
    ended.complete()
    assert "Make room" in ended.said
    assert "can be written again" in ended.said


@pytest.mark.fault(
    broken="the output folder vanishes for 2 s", must="it is said; everything is recorded",
    within_s=40,
)  # fmt: skip
async def test_output_folder_vanishes(bench: Any) -> None:
    folder = bench.folder / "runs"
    folder.mkdir()
    bench.folder = folder

    async def strike(daemon: Any) -> None:
        away = folder.rename(folder.with_name("elsewhere"))
        await bench.until(lambda: "cannot be written" in "".join(bench.said), daemon)
        await asyncio.sleep(2.0)
        away.rename(folder)

    ended = await bench.run(strike)
    ended.complete()
    assert "can be written again" in ended.said


@pytest.mark.fault(
    broken="the output folder is deleted", must="it is said; the run can be aborted, heater cold",
    within_s=40,
)  # fmt: skip
async def test_output_folder_deleted(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrotome.daemon.streaming.run_processes.FULL_DISK_TIMEOUT_S", 3.0)
    folder = bench.folder / "runs"
    folder.mkdir()
    bench.folder = folder

    async def strike(daemon: Any) -> None:
        await asyncio.to_thread(shutil.rmtree, folder)
        await bench.until(lambda: "cannot be written" in "".join(bench.said), daemon)
        await daemon.abort("somebody has seen it")

    ended = await bench.run(strike)
    assert ended.outcome.status == "failed", ended.said
    assert "the file was not closed" in ended.outcome.reason
    assert "somebody has seen it" in ended.outcome.reason
    assert ended.found == {}


# Online analysis


@pytest.mark.fault(broken="the analysis is killed", must="the run completes", within_s=40)
async def test_analysis_killed(bench: Any) -> None:
    async def strike(_: Any) -> None:
        child(ANALYSIS).kill()

    ended = await bench.run(strike, recipe=WITH_ANALYSIS)
    ended.complete()
    assert "the analysis died" in ended.said


@pytest.mark.fault(
    broken="the analysis hangs", must="it is given up, the run completes", within_s=60
)
async def test_analysis_hung(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrotome.daemon.streaming.run_processes.SILENT_ANALYSIS_S", 3.0)
    monkeypatch.setattr("pyrotome.daemon.runtime.processes.STOP_TIMEOUT_S", 1.0)

    async def strike(_: Any) -> None:
        child(ANALYSIS).suspend()

    ended = await bench.run(strike, recipe=WITH_ANALYSIS)
    ended.complete()
    assert "no message from the analysis" in ended.said


@pytest.mark.fault(
    broken="the analysis is slow", must="the schedule does not wait, results come", within_s=60
)
async def test_analysis_slow(bench: Any) -> None:
    async def strike(daemon: Any) -> None:
        analysis = child(ANALYSIS)
        analysis.suspend()
        await bench.until(lambda: daemon.experiment.engine.progress.frames_done >= 5, daemon)
        analysis.resume()

    ended = await bench.run(strike, recipe=WITH_ANALYSIS)
    ended.complete()
    assert all("volume" in series["results"] for series in ended.found["series"])


# The microscope


@pytest.mark.fault(
    broken="the microscope's servers are killed", must="run stopped, exit 3, file closed",
    within_s=60,
)  # fmt: skip
async def test_simulators_killed(bench: Any, own_microscope: Any) -> None:
    bench.microscope = own_microscope

    async def strike(_: Any) -> None:
        await asyncio.to_thread(bench.microscope.kill)

    ended = await bench.run(strike)
    assert (ended.outcome.status, ended.code) == ("failed", 3), ended.said
    assert ended.found["status"] == "failed"
    assert ended.state == "panicked"


# Listeners


@pytest.mark.fault(
    broken="a subscriber of full frames stalls", must="the run completes", within_s=40
)
async def test_stalled_subscriber(bench: Any) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as link:
        link.set(zmq.LINGER, 0)
        link.set(zmq.RCVHWM, 1)
        link.subscribe(b"")

        async def strike(daemon: Any) -> None:
            link.connect(daemon.publisher.endpoint)  # and never receives

        (await bench.run(strike)).complete()


@pytest.mark.fault(broken="a subscriber dies", must="the run completes", within_s=40)
async def test_dead_subscriber(bench: Any) -> None:
    async def strike(daemon: Any) -> None:
        host, port = daemon.publisher.endpoint.removeprefix("tcp://").split(":")
        for _ in range(20):
            connection = socket.create_connection((host, int(port)))
            connection.sendall(b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL")
            # Reset instead of an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()

    (await bench.run(strike)).complete()


@pytest.mark.fault(broken="the MQTT broker is away", must="the run completes", within_s=40)
async def test_broker_away(bench: Any) -> None:
    async def strike(_: Any) -> None:
        await asyncio.sleep(0)

    ended = await bench.run(strike, mqtt={"host": "127.0.0.1", "port": 9})
    ended.complete()


@pytest.mark.fault(broken="the MQTT broker hangs", must="the run completes", within_s=40)
async def test_broker_hung(bench: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]

        async def strike(_: Any) -> None:
            await asyncio.sleep(0)

        (await bench.run(strike, mqtt={"host": "127.0.0.1", "port": port})).complete()


@pytest.mark.fault(
    broken="noise on the control socket", must="it is refused, the run completes", within_s=40
)
async def test_control_noise(bench: Any) -> None:
    rng = np.random.default_rng(1)
    answers: list[dict[str, Any]] = []

    async def strike(daemon: Any) -> None:
        control = ControlServer(daemon, "tcp://127.0.0.1:*", accept_submit=False)
        try:
            with daemon.zmq_context.socket(zmq.DEALER) as link:
                link.set(zmq.LINGER, 0)
                link.connect(control.endpoint)
                for _ in range(300):
                    await link.send(rng.bytes(int(rng.integers(0, 200))))
                    answers.append(json.loads((await link.recv_multipart())[-1]))
        finally:
            await control.close()

    ended = await bench.run(strike)
    ended.complete()
    assert len(answers) == 300
    assert not any(answer["ok"] for answer in answers)


@pytest.mark.fault(
    broken="a port scanner on every port", must="the run completes, control answers", within_s=40
)
async def test_port_scanner(bench: Any) -> None:
    probes = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"SSH-2.0-scan\r\n",
        b"\0" * 64, b"\xff" * 64, b"\xff\0\0\0\0\0\0\0\1\x7f", b"",
    )  # fmt: skip
    answer: dict[str, Any] = {}

    def scan(endpoint: str) -> None:
        host, port = endpoint.removeprefix("tcp://").split(":")
        kept = []
        for number in range(140):
            connection = socket.create_connection((host, int(port)), timeout=5)
            with contextlib.suppress(OSError):
                connection.sendall(probes[number % len(probes)])
            kept.append(connection)
        for connection in kept:
            connection.close()

    async def strike(daemon: Any) -> None:
        control = ControlServer(daemon, "tcp://127.0.0.1:*", accept_submit=False)
        try:
            for endpoint in (control.endpoint, daemon.publisher.endpoint):
                await asyncio.to_thread(scan, endpoint)
            with daemon.zmq_context.socket(zmq.REQ) as link:
                link.set(zmq.LINGER, 0)
                link.connect(control.endpoint)
                await link.send(b'{"verb": "status"}')
                answer.update(json.loads(await asyncio.wait_for(link.recv(), 10)))
        finally:
            await control.close()

    (await bench.run(strike)).complete()
    assert answer["ok"] is True


# Time


@pytest.mark.fault(
    broken="UTC steps by an hour in a hold", must="hold right, times in the file rise",
    within_s=40,
)  # fmt: skip
async def test_utc_steps(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    monkeypatch.setattr("pyrotome.daemon.runtime.clock_record.INTERVAL_S", 0.2)

    def stepped() -> int:
        return real() + 3_600_000_000_000

    async def strike(_: Any) -> None:
        monkeypatch.setattr(time, "time_ns", stepped)
        monkeypatch.setattr(
            "pyrotome.daemon.runtime.clock_record.read_pair",
            functools.partial(read_pair, utc_ns=stepped),
        )

    ended = await bench.run(strike, at="hold")
    monkeypatch.undo()
    ended.complete()
    with h5py.File(ended.file) as file:
        for device in file["entry/telemetry"].values():
            for channel in device.values():
                if "time" in channel:
                    assert (np.diff(channel["time"][()]) >= 0).all()
        moments = np.concatenate([
            file[f"{series['name']}/frames/time"][()] for series in ended.found["series"]
        ])  # fmt: skip
        offset_s = (file[f"{CLOCK}/utc_ns"][()] - file[f"{CLOCK}/monotonic_ns"][()]) * 1e-9
    assert (np.diff(moments) > 0).all()
    assert moments[-1] - moments[0] < 60
    # The record of the clocks is where the step is seen.
    assert offset_s[-1] - offset_s[0] == pytest.approx(3600, abs=1)


@pytest.mark.fault(
    broken="the event loop is blocked for 0.5 s", must="its lag is published", within_s=40
)
async def test_blocked_loop(bench: Any) -> None:
    lags: list[float] = []

    async def strike(daemon: Any) -> None:
        asyncio.get_running_loop().call_soon(time.sleep, 0.5)

        def lagged() -> bool:
            latest = daemon.publisher.last.get("telemetry/daemon")
            if latest is not None:
                lags.append(latest.header["values"]["loop_lag_s"])
            return max(lags, default=0.0) > 0.4

        await bench.until(lagged, daemon)

    (await bench.run(strike)).complete()
    assert 0.4 < max(lags) < 5


@pytest.mark.fault(
    broken="much garbage, and a hold", must="none is collected in the hold's moments", within_s=40
)
async def test_garbage(bench: Any) -> None:
    collected_ns: list[int] = []

    def note(phase: str, _: dict[str, int]) -> None:
        if phase == "start" and threading.current_thread() is threading.main_thread():
            collected_ns.append(time.time_ns())

    async def strike(_: Any) -> None:
        gc.callbacks.append(note)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            # Cycles, which only the collector can free.
            for _ in range(200):
                cycle: list[Any] = []
                cycle.append(cycle)
            await asyncio.sleep(0.005)

    try:
        ended = await bench.run(strike, at="hold")
    finally:
        gc.callbacks.remove(note)
    ended.complete()
    assert collected_ns, "nothing was ever collected"
    with h5py.File(ended.file) as file:
        down_ns = int(file[f"{HOLDS}/commanded_down_ns"][0])
        crossed_ns = int(file[f"{HOLDS}/crossed_down_ns"][0])
    # The clock of the experiment is UTC's at its start, and monotonic from there on.
    assert not [at for at in collected_ns if down_ns - 20_000_000 < at < crossed_ns]
    assert gc.isenabled()
