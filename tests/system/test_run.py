"""`pyrotome run` as a user runs it: complete, interrupted, paused, with processes that die."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import psutil
import pytest
import zmq
from secured_daemon import ControlClient

ROOT = Path(__file__).resolve().parents[2]


def simulator_log(path: Path) -> list[dict[str, Any]]:
    """What the simulated world says has happened."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def crossings_ns(log: list[dict[str, Any]], level_c: float) -> list[int]:
    """Moments at which the true temperature passed a level, interpolated."""
    samples = [(e["t_ns"], e["temperature_c"]) for e in log if e["event"] == "temperature"]
    samples.sort()
    found: list[int] = []
    for (t0, c0), (t1, c1) in itertools.pairwise(samples):
        if (c0 - level_c) * (c1 - level_c) < 0:
            found.append(t0 + int((level_c - c0) / (c1 - c0) * (t1 - t0)))
    return found


def last_beam(log: list[dict[str, Any]]) -> bool:
    """Whether the beam was blanked at the end."""
    return [e["blanked"] for e in log if e["event"] == "beam"][-1]


def last_setpoint(log: list[dict[str, Any]]) -> float:
    """The heater's last commanded temperature."""
    return [e["target_c"] for e in log if e["event"] == "heater"][-1]


@contextlib.contextmanager
def connected(running: Any) -> Iterator[ControlClient]:
    """A client of a running command, which answers faster than the command line starts."""
    with zmq.Context() as context:
        client = ControlClient(context, running.control, None)
        yield client
        client.socket.close()


def wait_for_status(client: ControlClient, key: str, least: float) -> dict[str, Any]:
    """Wait until a number of the status has reached a value."""
    end = time.monotonic() + 120
    while True:
        status = client.request("status")["data"]
        if (status.get(key) or 0) >= least:
            return status
        assert time.monotonic() < end, status
        time.sleep(0.05)


def test_one_command_runs_a_whole_experiment_into_one_file(cli: Any) -> None:
    done = cli(
        "run", cli.recipe(), "--rig", cli.rig(), "-o", "run.nxs", "--simulator-log", "world.log"
    )
    assert done.returncode == 0, done.stderr
    found = cli.inspect("run.nxs")
    assert found["status"] == "complete"
    assert (found["frames"], found["lost_frames"]) == (12, 0)
    assert [s["name"] for s in found["series"]] == ["series_001", "series_002"]
    per_frame = 2e-12 * 10e-6 / (1.602176634e-19 * 16**2)
    for series in found["series"]:
        assert series["tilt_deg"] == pytest.approx([-20, -10, 0, 10, 20], abs=0.05)
        assert series["dose_e_per_nm2"] == pytest.approx(5 * per_frame, rel=1e-6)
        assert series["temperature_mean_c"] == pytest.approx(200, abs=3)
        assert set(series["results"]) == {
            "volume", "slice_x", "slice_y", "slice_z", "mask", "outliers",
        }  # fmt: skip
    assert found["dose_e_per_nm2"] >= 12 * per_frame * (1 - 1e-9)

    # The world's own record is the witness of what the file says.
    log = simulator_log(cli.folder / "world.log")
    true_dose = sum(e["dose_e_per_nm2"] for e in log if e["event"] == "exposure")
    assert true_dose == pytest.approx(12 * per_frame, rel=0.02)
    # With what the blanker lets through; on a busy computer it is not known when that was.
    received = [e["total_e_per_nm2"] for e in log if e["event"] == "dose"][-1]
    assert found["dose_e_per_nm2"] == pytest.approx(received, rel=0.15)
    crossed = crossings_ns(log, 275.0)
    assert len(crossed) == 4
    true_holds = [(b - a) * 1e-9 for a, b in zip(crossed[::2], crossed[1::2], strict=True)]
    for hold, true_s in zip(found["holds"], true_holds, strict=True):
        # A busy computer may end a hold late; what the file says of it is right all the same.
        assert -0.02 <= hold["achieved_s"] - hold["requested_s"] < 0.5
        assert hold["achieved_s"] == pytest.approx(true_s, abs=0.01)
        assert hold["max_c"] > 350
    assert last_beam(log)
    assert last_setpoint(log) == 25.0
    with h5py.File(cli.folder / "run.nxs") as file:
        assert file["entry/run/status"][()].rstrip(b"\0") == b"complete"
        assert file["series_001/instrument/detector/data"].shape == (5, 64, 64)
        assert file["series_001/instrument/detector/data"][2].sum() > 0
        volume = file["series_001/process_001/volume/data"][()]
        assert volume.shape == (32, 32, 32)
        assert np.isfinite(volume).all()


def test_every_frame_carries_its_temperature_tilt_time_and_dose(cli: Any) -> None:
    ramp = [
        {"heat": {"to": "100 degC", "rate": "300 degC/s"}},
        {"ramp": {"to": "120 degC", "rate": "10 degC/s", "frame_every": "0.5 s"}},
    ]
    done = cli("run", cli.recipe(steps=ramp), "--rig", cli.rig(), "-o", "run.nxs")
    assert done.returncode == 0, done.stderr
    with h5py.File(cli.folder / "run.nxs") as file:
        temperature = file["ramp_001/sample/temperature"][()]
        dose = file["ramp_001/frames/dose_total"][()]
        time_s = file["ramp_001/frames/time"][()]
        assert (file["ramp_001/instrument/detector/image_key"][()] == 0).all()
    # What is left of the overshoot at 100 degC decays while the ramp goes on.
    assert temperature == pytest.approx(100 + np.arange(5) * 5, abs=3.5)
    assert np.diff(temperature) == pytest.approx(5, abs=1.0)
    assert np.diff(time_s) == pytest.approx(0.5, abs=0.1)
    assert (np.diff(dose) > 0).all()


def test_ctrl_c_in_a_hold_makes_everything_safe_and_keeps_the_file(cli: Any) -> None:
    steps = [
        {"heat": {"to": "200 degC", "rate": "300 degC/s"}},
        {"cycle": {"standby": "200 degC", "processing": "350 degC", "holds": ["600 s"]}},
    ]
    running = cli.start(
        "run", cli.recipe(steps=steps), "--rig", cli.rig(), "-o", "run.nxs",
        "--simulator-log", "world.log",
    )  # fmt: skip
    running.wait_for("hold 1: 600 s")
    with connected(running) as client:
        wait_for_status(client, "temperature_c", 345.0)
    time.sleep(0.2)
    running.interrupt()
    assert running.wait() == 130, running.text()
    log = simulator_log(cli.folder / "world.log")
    assert any(e["event"] == "heater" and e["target_c"] == 350 for e in log)
    assert last_setpoint(log) == 25.0
    assert last_beam(log)
    found = cli.inspect("run.nxs")
    assert found["status"] == "aborted"
    assert found["frames"] == 0
    with h5py.File(cli.folder / "run.nxs") as file:
        temperatures = file["entry/telemetry/heater/temperature_c/value"][()]
    assert temperatures.max() > 340
    assert temperatures[-1] < 60


def test_pause_in_a_series_waits_at_standby_and_resume_misses_nothing(cli: Any) -> None:
    steps = [
        {"heat": {"to": "200 degC", "rate": "300 degC/s"}},
        {"tilt_series": {"from": "-40 deg", "to": "40 deg", "step": "2 deg"}},
    ]
    running = cli.start("run", cli.recipe(steps=steps), "--rig", cli.rig(), "-o", "run.nxs")
    running.wait_for("series_001: 41 frames")
    with connected(running) as client:
        assert client.request("resume")["code"] == 2
        wait_for_status(client, "frames_done", 2)
        assert client.request("pause")["ok"]
        while (paused := client.request("status")["data"])["state"] != "paused":
            time.sleep(0.05)
    assert paused["frames_done"] < 41
    again = json.loads(cli("status", "--json", "--endpoint", running.control).stdout)
    assert again["frames_done"] == paused["frames_done"]
    assert again["temperature_c"] == pytest.approx(200, abs=3)
    assert cli("resume", "--endpoint", running.control).returncode == 0
    assert running.wait() == 0, running.text()
    found = cli.inspect("run.nxs")
    assert found["series"][0]["frames"] == 41
    assert found["lost_frames"] == 0
    assert found["series"][0]["tilt_deg"] == pytest.approx(range(-40, 41, 2), abs=0.05)
    with h5py.File(cli.folder / "run.nxs") as file:
        numbers = file["series_001/frames/frame_number"][()]
    assert list(numbers) == list(range(1, 42))


def test_a_steered_cycle_ends_by_its_fallback_when_nothing_is_measured(cli: Any) -> None:
    tilts = {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "10 deg"}}
    until = {
        "neck_growth_below": "1 %", "max_holds": 4, "timeout": "1 s", "otherwise": "stop",
    }  # fmt: skip
    steps = [
        {"heat": {"to": "200 degC", "rate": "300 degC/s"}},
        tilts,
        {
            "cycle": {
                "standby": "200 degC",
                "processing": "350 degC",
                "holds": ["0.5 s"],
                "then": [tilts],
                "until": until,
            }
        },
    ]
    # Particles smaller than a voxel: there is nothing to measure.
    analysis = [
        {"reconstruct": {"method": "sirt", "iterations": 2, "binning": 8}},
        {"segment": {}},
        {"measure": "necks"},
    ]
    recipe = cli.recipe(steps=steps, analysis=analysis)
    done = cli("run", recipe, "--rig", cli.rig(), "-o", "run.nxs")
    assert done.returncode == 0, done.stderr
    assert "the cycle ends, as the recipe says" in done.stderr
    found = cli.inspect("run.nxs")
    assert (found["status"], found["frames"]) == ("complete", 6)
    assert [s["frames"] for s in found["series"]] == [3, 3, 0, 0, 0]
    assert [h["achieved_s"] is not None for h in found["holds"]] == [True, False, False, False]


def test_adaptive_holds_are_chosen_recorded_and_exported(cli: Any) -> None:
    tilts = {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "10 deg"}}
    adaptive = {"first": "0.5 s", "max": "2 s", "max_holds": 2, "timeout": "1 s"}
    cycle = {
        "standby": "200 degC", "processing": "350 degC", "holds": {"adaptive": adaptive},
        "then": [tilts],
    }  # fmt: skip
    steps = [{"heat": {"to": "200 degC", "rate": "300 degC/s"}}, tilts, {"cycle": cycle}]
    # Particles smaller than a voxel: there is nothing to measure, so that the fallback holds.
    analysis = [
        {"reconstruct": {"method": "sirt", "iterations": 2, "binning": 8}},
        {"segment": {}},
        {"measure": "necks"},
    ]
    recipe = cli.recipe(steps=steps, analysis=analysis)
    planned = cli("check", recipe, "--rig", cli.rig())
    assert "adaptive, 0.2 to 2 s" in planned.stdout
    assert "2 adaptive holds are counted at their longest" in " ".join(planned.stdout.split())
    done = cli("run", recipe, "--rig", cli.rig(), "-o", "run.nxs")
    assert done.returncode == 0, done.stderr
    assert "hold 2 is the last one, 0.5 s at 350 °C, as the recipe says" in done.stderr
    found = cli.inspect("run.nxs")
    assert [hold["requested_s"] for hold in found["holds"]] == [0.5, 0.5]
    assert [hold["achieved_s"] for hold in found["holds"]] == pytest.approx([0.5, 0.5], abs=0.3)
    assert (found["steering"]["chosen"], found["steering"]["by_model"]) == (2, 0)
    assert cli("export", "run.nxs", "--what", "steering", "--to", "s.csv").returncode == 0
    lines = (cli.folder / "s.csv").read_text().splitlines()
    assert [line.rsplit(",", 1)[1] for line in lines] == [
        "chosen_by",
        "fallback",
        "fallback",
        "none",
    ]
    assert cli("export", "run.nxs", "--what", "steering", "--to", "s.png").returncode == 0
    assert (cli.folder / "s.png").read_bytes().startswith(b"\x89PNG")


def test_the_recorder_is_never_overtaken_at_high_speed(cli: Any) -> None:
    steps = [
        {"heat": {"to": "200 degC", "hold": "10 min"}},
        {"reference": {"frames": 60}},
    ]
    done = cli(
        "run", cli.recipe(steps=steps, limits={}), "--rig", cli.rig(), "-o", "run.nxs",
        "--speed", "100",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = cli.inspect("run.nxs")
    assert (found["frames"], found["lost_frames"]) == (60, 0)
    with h5py.File(cli.folder / "run.nxs") as file:
        time_s = file["entry/telemetry/heater/temperature_c/time"][()]
    assert (np.diff(time_s) > 0).all()
    assert time_s[-1] > 600


def test_a_second_process_reads_while_the_run_goes_on(cli: Any) -> None:
    steps = [
        {"heat": {"to": "200 degC", "rate": "300 degC/s"}},
        {"tilt_series": {"from": "-40 deg", "to": "40 deg", "step": "5 deg"}},
    ]
    running = cli.start("run", cli.recipe(steps=steps), "--rig", cli.rig(), "-o", "run.nxs")
    running.wait_for("series_001: 17 frames")
    reader = (
        "import h5py, hdf5plugin, sys, time\n"
        "f = h5py.File(sys.argv[1], 'r', swmr=True)\n"
        "t = f['entry/telemetry/heater/temperature_c/value']\n"
        "d = f['series_001/instrument/detector/data']\n"
        "k = f['series_001/instrument/detector/image_key']\n"
        "seen = []\n"
        "for _ in range(200):\n"
        "    t.refresh(); d.refresh(); k.refresh()\n"
        "    done = int((k[()] == 0).sum())\n"
        "    seen.append((t.shape[0], done))\n"
        "    if done >= seen[0][1] + 2: break\n"
        "    time.sleep(0.1)\n"
        "print(seen[0][0], seen[-1][0], done, int(d[done - 1].sum()))\n"
    )
    read = subprocess.run(
        [sys.executable, "-c", reader, str(cli.folder / "run.nxs")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    first, last, frames, counts = map(int, read.stdout.split())
    assert last > first
    assert 2 <= frames <= 17
    assert counts > 0
    assert running.process.poll() is None
    growing = cli.inspect("run.nxs")
    assert growing["status"] == "running"
    running.interrupt()
    assert running.wait() == 130


def test_the_examples_subscriber_sees_temperature_and_every_preview(cli: Any) -> None:
    source = (ROOT / "examples" / "scripts" / "subscriber.py").read_text()
    assert len(source.splitlines()) <= 20
    assert "pyrotome" not in source
    running = cli.start("run", cli.recipe(), "--rig", cli.rig(), "-o", "run.nxs")
    with (cli.folder / "seen.txt").open("w+") as seen:
        subscriber = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "scripts" / "subscriber.py"), running.monitor],
            stdout=seen,
        )
        try:
            assert running.wait() == 0, running.text()
        finally:
            subscriber.kill()
            subscriber.wait()
    lines = (cli.folder / "seen.txt").read_text().splitlines()
    previews = [line for line in lines if "series_0" in line or "reference" in line]
    assert len(previews) == 12
    temperatures = [line for line in lines if line not in previews]
    sequence = [int(line.split()[0]) for line in temperatures]
    assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))
    with h5py.File(cli.folder / "run.nxs") as file:
        time_s = file["entry/telemetry/heater/temperature_c/time"][()]
    assert len(time_s) / (time_s[-1] - time_s[0]) > 10


def test_watch_prints_one_json_object_a_line(cli: Any) -> None:
    running = cli.start("run", cli.short_recipe(), "--rig", cli.rig(), "-o", "run.nxs")
    watched = cli("watch", "--endpoint", running.monitor, "--json", "--seconds", "4")
    assert watched.returncode == 0, watched.stderr
    messages = [json.loads(line) for line in watched.stdout.splitlines()]
    assert {"state", "telemetry/heater"} <= {m["topic"] for m in messages}
    for message in messages:
        assert {"type", "run", "seq", "t_ns"} <= set(message)
    assert running.wait() == 0


def test_full_frames_on_the_monitor_equal_those_in_the_file(cli: Any) -> None:
    running = cli.start("run", cli.short_recipe(), "--rig", cli.rig(), "-o", "run.nxs")
    frames: dict[tuple[str, int], Any] = {}
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(running.monitor)
        socket.subscribe(b"frame/")
        while running.process.poll() is None:
            if not socket.poll(100):
                continue
            _, raw, payload = socket.recv_multipart()
            head = json.loads(raw)
            pixels = np.frombuffer(payload, np.dtype(head["dtype"]).newbyteorder("<"))
            frames[head["series"], head["index"]] = pixels.reshape(head["shape"])
            assert {
                "series", "index", "tilt_deg", "shape", "dtype", "exposure_s", "temperature_c",
                "dose_e_per_nm2", "dose_total_e_per_nm2", "type", "run", "seq", "t_ns",
            } <= set(head)  # fmt: skip
    assert running.wait() == 0, running.text()
    assert len(frames) == 5
    with h5py.File(cli.folder / "run.nxs") as file:
        for (series, index), pixels in frames.items():
            recorded = file[f"{series}/instrument/detector/data"][index]
            np.testing.assert_array_equal(recorded, pixels)


def test_an_analysis_that_dies_does_not_touch_the_acquisition(cli: Any) -> None:
    running = cli.start("run", cli.short_recipe(), "--rig", cli.rig(), "-o", "run.nxs")
    running.wait_for("reference_001")
    running.children()["pyrotome.analysis.online.worker"].kill()
    assert running.wait() == 0, running.text()
    assert "the analysis died" in running.text()
    found = cli.inspect("run.nxs")
    assert (found["status"], found["frames"], found["lost_frames"]) == ("complete", 5, 0)


def test_the_run_continues_when_the_analysis_dies_at_its_start(cli: Any) -> None:
    running = cli.start("run", cli.short_recipe(), "--rig", cli.rig(), "-o", "run.nxs")
    wanted, deadline_s = "pyrotome.analysis.online.worker", time.monotonic() + 120
    while wanted not in running.children():
        assert time.monotonic() < deadline_s, running.text()
        time.sleep(0.01)
    running.children()[wanted].kill()
    assert running.wait() == 0, running.text()
    assert "the analysis did not start" in running.text()
    assert "pyrotome process" in running.text()
    found = cli.inspect("run.nxs")
    assert (found["status"], found["frames"], found["lost_frames"]) == ("complete", 5, 0)


def test_an_analysis_that_hangs_is_awaited_for_a_limited_time(cli: Any) -> None:
    running = cli.start("run", cli.short_recipe(), "--rig", cli.rig(), "-o", "run.nxs")
    running.wait_for("reference_001")
    running.children()["pyrotome.analysis.online.worker"].suspend()
    text = running.wait_for("no message from the analysis for")
    assert "stopped with 5" in running.wait_for("stopped with 5")
    assert "all frames acquired" in text
    assert running.wait() == 0, running.text()
    found = cli.inspect("run.nxs")
    assert (found["status"], found["frames"], found["lost_frames"]) == ("complete", 5, 0)


def test_a_recorder_that_dies_ends_the_run_safely(cli: Any) -> None:
    running = cli.start(
        "run",
        cli.short_recipe(),
        "--rig",
        cli.rig(),
        "-o",
        "run.nxs",
        "--simulator-log",
        "world.log",
    )
    running.wait_for("reference_001")
    running.children()["pyrotome.daemon.recording.recorder"].kill()
    assert running.wait() == 1, running.text()
    assert "the recorder died" in running.text()
    log = simulator_log(cli.folder / "world.log")
    assert last_beam(log)
    assert last_setpoint(log) == 25.0


def test_simulators_that_die_are_a_lost_device(cli: Any) -> None:
    running = cli.start("run", cli.short_recipe(), "--rig", cli.rig(), "-o", "run.nxs")
    running.wait_for("reference_001")
    running.children()["pyrotome.simulators"].kill()
    assert running.wait() == 3, running.text()
    assert "Traceback" not in running.text()
    assert cli.inspect("run.nxs")["status"] == "failed"


def test_nothing_outlives_a_daemon_that_is_killed(cli: Any) -> None:
    running = cli.start("run", cli.short_recipe(), "--rig", cli.rig(), "-o", "run.nxs")
    running.wait_for("reference_001")
    children = list(running.children().values())
    assert len(children) == 4
    running.process.kill()
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert len(gone) == 4, alive
    assert cli.inspect("run.nxs")["status"] == "interrupted"
