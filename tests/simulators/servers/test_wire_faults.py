"""The switches of a wire's faults, by themselves, in a simulation, and on the command line."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from pyrotome.protocols.config.faults import FAULTS, parse_fault
from pyrotome.protocols.config.rig import simulated_rig
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.simulators.servers.wire_faults import WireFaults
from pyrotome.simulators.simulation import WIRES, running

ALL = [name for name in FAULTS if name != "none"]


@pytest.fixture
def faults():
    return WireFaults(ALL)


def fault(text):
    return parse_fault(f"heater:{text}")


async def test_nothing_is_wrong_at_the_start(faults):
    await asyncio.wait_for(faults.delay(), 60)
    assert not any(faults.is_on(name) or faults.strikes(name) for name in ALL)
    assert faults.spoil(b"answer") == b"answer"
    assert faults.struck == {}


async def test_a_hang_ends_when_it_is_cleared(faults):
    faults.switch(fault("hang"))
    waiting = [asyncio.create_task(faults.delay()) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    faults.switch(fault("none"))
    await asyncio.wait_for(asyncio.gather(*waiting), 60)


async def test_other_switches_do_not_end_a_hang(faults):
    faults.switch(fault("hang"))
    waiting = asyncio.create_task(faults.delay())
    faults.switch(fault("error"))
    faults.clear("error")
    await asyncio.sleep(0.05)
    assert not waiting.done()
    faults.clear("hang")
    await asyncio.wait_for(waiting, 60)


async def test_slow_is_late_and_no_more(faults):
    faults.switch(fault("slow=100 msx1"))
    started = time.monotonic()
    await faults.delay()
    assert time.monotonic() - started >= 0.1
    assert not faults.is_on("slow")
    await faults.delay()
    assert faults.struck == {"slow": 1}


@pytest.mark.parametrize("name", ["disconnect", "garbage", "short-frame", "wrong-length", "error"])
async def test_so_many_times_and_then_no_more(faults, name):
    faults.switch(fault(f"{name}x3"))
    assert [faults.strikes(name) for _ in range(5)] == [True, True, True, False, False]
    assert not faults.is_on(name)
    assert faults.struck == {name: 3}
    faults.switch(fault(f"{name}x2"))
    faults.switch(fault(name))
    assert all(faults.strikes(name) for _ in range(5))
    assert not faults.strikes("hang")


async def test_noise_is_the_same_for_the_same_seed_and_no_message(faults):
    faults.switch(fault("garbage"))
    spoilt = [faults.spoil(b"answer") for _ in range(3)]
    again = WireFaults(ALL)
    again.switch(fault("garbage"))
    assert spoilt == [again.spoil(b"answer") for _ in range(3)]
    assert len(set(spoilt)) == 3
    assert all(raw.endswith(b"answer") and len(raw) > 30 for raw in spoilt)


async def test_a_wire_refuses_what_it_cannot_have():
    faults = WireFaults({"hang", "slow"})
    with pytest.raises(BadInput, match=r"heater:error: this wire cannot have it; .* hang, slow"):
        faults.switch(fault("error"))
    faults.switch(fault("none"))


# In a simulation.


@pytest.fixture
def config():
    def make(*faults, speed=1.0, **changes):
        rig = simulated_rig().model_copy(update={"simulator": SimulatorRig(), **changes})
        clock = ClockConfig.of(ExperimentClock(speed))
        return SimulatorConfig(rig=rig, clock=clock, faults=[parse_fault(f) for f in faults])

    return make


async def test_faults_come_and_go_in_their_time(config):
    async with running(config("heater:hang@2s+12s", "stage:slow", speed=4.0)) as simulation:
        heater, clock = simulation.faults["heater"], simulation.clock
        assert simulation.faults["stage"].is_on("slow")
        began_s = clock.now_s()
        assert not heater.is_on("hang")
        while not heater.is_on("hang"):
            await asyncio.sleep(0.01)
        assert clock.now_s() >= began_s + 1
        while heater.is_on("hang"):
            await asyncio.sleep(0.01)
        assert clock.now_s() >= began_s + 13
        assert simulation.faults["stage"].is_on("slow")


async def test_roles_on_one_server_share_its_faults(config):
    async with running(config("stage:error")) as simulation:
        assert simulation.faults["beam"].is_on("error")
        simulation.switch(parse_fault("beam:none"))
        assert not simulation.faults["stage"].is_on("error")


async def test_bad_faults_are_refused_before_anything_listens(config, monkeypatch):
    opened = []
    monkeypatch.setattr("pyrotome.simulators.simulation.World", lambda *_: opened.append(1))
    with pytest.raises(BadInput, match="heater:wrong-length"):
        async with running(config("stage:hang", "heater:wrong-length")):
            pass
    other = simulated_rig().heater.model_copy(update={"driver": "of-somebody-else"})
    with pytest.raises(BadInput, match="the heater is not simulated"):
        async with running(config("heater:hang", heater=other)):
            pass
    assert opened == []


def test_every_wire_can_hang_at_least():
    for driver, wire in WIRES.items():
        assert "hang" in wire.faults, driver


# On the command line.


def command(*arguments):
    return [sys.executable, "-m", "pyrotome.daemon", "simulate", *arguments]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("heater:bogus", "--fault: 'bogus' is not a fault"),
        ("oven:hang", "--fault: 'oven' is not a role"),
        ("heater:wrong-length", "heater:wrong-length: this wire cannot have it; it can have hang"),
    ],
)
def test_bad_faults_end_with_exit_code_2(text, problem):
    done = subprocess.run(
        command("--fault", text), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def read_until(source, wanted, timeout_s=90.0):
    """Text of a file descriptor up to some words."""
    text, end = "", time.monotonic() + timeout_s
    os.set_blocking(source, False)
    while wanted not in text:
        assert time.monotonic() < end, text
        try:
            text += os.read(source, 65_536).decode()
        except BlockingIOError:
            time.sleep(0.02)
    return text


def test_faults_are_switched_by_lines_typed(tmp_path):
    terminal, line = pty.openpty()
    process = subprocess.Popen(
        command("--fault", "heater:slow=10 ms"),
        stdin=line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    os.close(line)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        read_until(process.stdout.fileno(), "detector")
        os.write(terminal, b"stage:error\n")
        read_until(process.stderr.fileno(), "switched stage:error")
        os.write(terminal, b"stage:err")
        os.write(terminal, b"orx1\nnonsense\nheater:none\n")
        answers = read_until(process.stderr.fileno(), "switched heater:none").splitlines()
        assert answers[0] == "switched stage:errorx1"
        assert answers[1].startswith("fault: 'nonsense' should read as ROLE:FAULT")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.mark.parametrize("source", ["file", "nothing"])
def test_faults_from_a_file_and_no_input_at_all(tmp_path, source):
    lines = tmp_path / "faults.txt"
    lines.write_text("beam:hang\n" if source == "file" else "")
    with lines.open("rb") as stdin:
        process = subprocess.Popen(
            command(), stdin=stdin if source == "file" else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            read_until(process.stdout.fileno(), "detector")
            if source == "file":
                read_until(process.stderr.fileno(), "switched beam:hang")
            time.sleep(0.3)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
