"""The source-measure units against our simulator, and against one that misbehaves."""

import asyncio
import contextlib
import json
import os
from pathlib import Path

import numpy as np
import psutil
import pytest
from late_loop import TCP as TCP_LINK
from late_loop import connected
from virtual_time import run_in_virtual_time

from pyrotome.drivers.base import DeviceError, DeviceLost, DeviceRefused, OutOfRange
from pyrotome.drivers.keithley.heater import Keithley2400Heater, Keithley2450Heater
from pyrotome.drivers.registry import make_device
from pyrotome.protocols.config.calibration_file import load_calibration
from pyrotome.protocols.config.faults import parse_fault
from pyrotome.protocols.config.rig import HeaterRig, Rig, load_rig, simulated_rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.simulators.simulation import running

FILE = Path(__file__).resolve().parents[3] / "examples" / "rigs" / "chip_calibration.json"
TCP, SERIAL = "keithley-2450", "keithley-2400"
ENDPOINTS = {TCP: "tcp://127.0.0.1:0", SERIAL: "serial://auto"}


@contextlib.asynccontextmanager
async def smu(driver=TCP, limits=None, speed=1.0, **options):
    """The simulation and a driver for it, not yet connected; it is disconnected at the end."""
    rig = simulated_rig().model_dump(by_alias=True)
    if driver == SERIAL:
        options = {"baud": 57600, **options}
    rig["heater"] = {
        "driver": driver,
        "endpoint": ENDPOINTS[driver],
        "options": {"calibration_file": str(FILE), **options},
        "limits": limits or {},
    }
    rig["simulator"] = {"specimen": {"kind": "cu-sintering", "particles": 2}}
    clock = ExperimentClock(speed)
    config = SimulatorConfig(rig=Rig.model_validate(rig), clock=ClockConfig.of(clock))
    async with running(config) as simulation:
        heater = make_device(simulation.rig(config.rig), "heater", clock)
        try:
            yield heater, simulation
        finally:
            await heater.disconnect()


def fault(simulation, text):
    simulation.switch(parse_fault(f"heater:{text}"))


def true_c(simulation):
    return simulation.world.heater.temperature_c(simulation.clock.now_ns())


async def becomes(wanted, timeout_s=60.0):
    async with asyncio.timeout(timeout_s):
        while not wanted():
            await asyncio.sleep(0.01)


async def is_cold(simulation):
    """The current is off, so the chip cools to ambient temperature and stays there."""
    await becomes(lambda: true_c(simulation) < 26.0)
    await asyncio.sleep(0.1)
    assert true_c(simulation) < 26.0
    assert not simulation.world.heater.is_driven


def followed(heater):
    """Samples as they come, and the task that takes them."""
    found = []

    async def follow():
        async for sample in heater.samples():
            found.append(sample)

    return found, asyncio.create_task(follow())


async def settled(simulation, target_c, within_c=1.5):
    await becomes(lambda: abs(true_c(simulation) - target_c) < within_c)


def calibration_with(tmp_path, resistance=1.0, power=1.0, **changes):
    """A file that says the chip had other constants than it has."""
    body = json.loads(FILE.read_text())
    body["resistance"]["r0_ohm"] *= resistance
    body["power"]["conductance_w_per_k"] *= power
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({**body, **changes}))
    return str(path)


@pytest.mark.parametrize("driver", [TCP, SERIAL])
async def test_heats_holds_and_makes_safe(driver):
    async with smu(driver) as (heater, simulation):
        identity = await heater.connect()
        assert identity.vendor == "Keithley"
        assert identity.model == driver.removeprefix("keithley-")
        samples, following = followed(heater)
        before_ns = heater.clock.now_ns()
        sent_ns = await heater.set_temperature(350.0)
        assert before_ns <= sent_ns <= heater.clock.now_ns()
        await settled(simulation, 350.0)
        await becomes(lambda: abs(samples[-1].temperature_c - 350.0) < 1.0)
        hot = samples[-1]
        assert hot.setpoint_c == 350.0
        assert set(hot.values) == set(heater.channels) - {"temperature_c", "setpoint_c"}
        values = hot.values
        assert values["power_w"] == pytest.approx(values["current_a"] * values["voltage_v"])
        assert values["resistance_ohm"] == pytest.approx(values["voltage_v"] / values["current_a"])
        assert 0 < values["loop_rate_hz"] < 101
        times = [s.t_ns for s in samples]
        assert np.all(np.diff(times) > 0)
        await heater.make_safe()
        await is_cold(simulation)
        await becomes(lambda: samples[-1].temperature_c == 25.0)
        assert samples[-1].values == {"power_w": 0.0, "current_a": 0.0}
        await heater.set_temperature(100.0)  # and on again
        await settled(simulation, 100.0)
        await heater.disconnect()
        await following
        await is_cold(simulation)
        assert heater.loop.implausible_readings == 0


def test_ramp_hold_and_the_time_of_readings():
    async def work():
        async with connected(TCP_LINK) as (heater, world):
            samples, following = followed(heater)
            await heater.set_temperature(200.0)
            await asyncio.sleep(0.5)
            sent_ns = await heater.start_ramp(400.0, 1.0)
            await asyncio.sleep(0.8)
            await heater.hold_here()
            await asyncio.sleep(0.5)
            ramp = [s for s in samples if sent_ns + 100_000_000 < s.t_ns < sent_ns + 700_000_000]
            seconds = [s.t_ns * 1e-9 for s in ramp]
            slope = np.polyfit(seconds, [s.setpoint_c for s in ramp], 1)[0]
            assert slope == pytest.approx(200.0, rel=0.01)
            times, values = world.heater.history(sent_ns)
            errors = [s.temperature_c - np.interp(s.t_ns, times, values) for s in ramp]
            assert abs(np.median(errors)) < 0.3  # 200 degC/s: 1.5 ms
            assert samples[-1].temperature_c == pytest.approx(samples[-1].setpoint_c, abs=0.5)
            assert samples[-1].setpoint_c == pytest.approx(360.0, abs=3.0)
            await heater.disconnect()
            await following

    run_in_virtual_time(work)


async def test_too_hot_too_fast_and_too_cold_send_nothing():
    async with smu(limits={"temperature": "800 degC", "rate": "400 delta_degC/s"}) as (heater, sim):
        await heater.connect()
        for call, message in (
            (
                heater.set_temperature(800.5),
                "rig are .* to 800 degC; nothing was sent",
            ),
            (heater.set_temperature(float("nan")), "nothing was sent"),
            (
                heater.set_temperature(10.0),
                "chip .* are 23 to 1300 degC; nothing was sent",
            ),
            (heater.start_ramp(600.0, 0.5), "the rig's rate allows"),
            (heater.start_ramp(600.0, float("nan")), "the rig's rate allows"),
        ):
            with pytest.raises(OutOfRange, match=message):
                await call
        assert true_c(sim) < 30.0
        sent_ns = await heater.set_temperature(400.0)
        await settled(sim, 400.0)
        took_s = (heater.clock.now_ns() - sent_ns) * 1e-9
        assert took_s > 0.9
        sent_ns = heater.clock.now_ns()
        await heater.make_safe()
        times, values = sim.world.heater.history(sent_ns)
        rates = np.diff(values[::50]) / (np.diff(times[::50]) * 1e-9)
        assert rates.min() > -5000.0  # an output turned off at 400 degC falls at 20,000
        await is_cold(sim)


async def test_an_answer_that_nobody_waited_for_is_taken_for_no_other():
    async with smu(SERIAL, baud=9600) as (heater, simulation):
        await heater.connect(20.0)
        for stray in (":OUTP?", "*OPC?", ":SYST:ERR?"):
            await heater.make_safe()
            # As left by a look at the output that was cancelled: it comes after the next question.
            heater.unit.link.post(stray)
            await heater.set_temperature(60.0)
            await settled(simulation, 60.0)
            heater.unit.link.post(stray)
            await heater.make_safe()
            await is_cold(simulation)


async def test_faster_than_the_wall():
    async with smu(speed=5.0) as (heater, simulation):
        await heater.connect()
        await heater.set_temperature(300.0)
        await settled(simulation, 300.0)
        await heater.make_safe()
        await is_cold(simulation)


# What must end with the output off.


async def tripped(heater, simulation, kind, message, timeout_s=60.0):
    """Samples and commands raise; the chip cools."""
    async with asyncio.timeout(timeout_s):
        with pytest.raises(kind, match=message) as caught:
            async for _ in heater.samples():
                pass
    await is_cold(simulation)
    assert "the output is off" in str(caught.value)
    assert heater.name in str(caught.value)
    with pytest.raises(DeviceError, match=message):
        await heater.set_temperature(100.0)
    with pytest.raises(DeviceError, match=message):
        await anext(aiter(heater.samples()))
    return caught.value


@pytest.mark.parametrize("error", [0.99, 1.01])
async def test_wrong_calibration_is_refused_cold(error, tmp_path):
    async with smu(calibration_file=calibration_with(tmp_path, error)) as (heater, simulation):
        with pytest.raises(DeviceRefused, match=r"% in resistance.*the output is off.*Load this"):
            await heater.connect()
        await is_cold(simulation)
        with pytest.raises(DeviceLost, match="not connected"):
            await heater.set_temperature(100.0)


@pytest.mark.parametrize(("target_c", "factor"), [(200.0, 0.99), (350.0, 1.01), (800.0, 0.99)])
async def test_wrong_calibration_is_found_hot(target_c, factor):
    async with smu() as (heater, simulation):
        await heater.connect()
        simulation.world.heater.age(simulation.clock.now_ns(), factor)
        await heater.set_temperature(target_c)
        await tripped(heater, simulation, DeviceError, "do not belong together")
        # A person has acknowledged it: then the chip is checked cold, and does not pass.
        await heater.make_safe()
        with pytest.raises(DeviceRefused, match="% in resistance from the calibration"):
            await heater.set_temperature(100.0)
        await is_cold(simulation)
        simulation.world.heater.age(simulation.clock.now_ns(), 1.0)
        await heater.make_safe()
        await heater.set_temperature(100.0)
        await settled(simulation, 100.0)


async def test_chip_that_breaks():
    async with smu() as (heater, simulation):
        await heater.connect()
        await heater.set_temperature(300.0)
        await settled(simulation, 300.0)
        simulation.world.heater.break_wire(simulation.clock.now_ns())
        await tripped(heater, simulation, DeviceError, "it is in compliance")


async def test_resistance_outside_the_calibration(tmp_path, monkeypatch):
    body = json.loads(FILE.read_text())
    body["resistance"]["range_c"] = [0, 400]
    body["power"]["conductance_w_per_k"] *= 1.5  # believed to lose more than it does
    body["power_tolerance"] = 0.5
    path = tmp_path / "short.json"
    path.write_text(json.dumps(body))
    async with smu(calibration_file=str(path), max_current_a=0.01) as (heater, simulation):
        await heater.connect()
        with pytest.raises(OutOfRange, match=r"chip .* by its calibration are .* to 400 degC"):
            await heater.set_temperature(500.0)
        await heater.set_temperature(100.0)
        await settled(simulation, 100.0)
        # Somebody else drives the same instrument.
        heater.unit.link.post(":SOUR:CURR 9.9E-3;:READ?")
        check = heater.loop.check
        monkeypatch.setattr(check, "temperature_c", _stuck(check.temperature_c))
        await tripped(heater, simulation, DeviceError, "outside the calibration of chip")


def _stuck(temperature_c):
    def read(reading, set_a):
        return temperature_c(
            type(reading)(reading.t_ns, reading.voltage_v * 2, reading.current_a), set_a
        )

    return read


async def test_one_implausible_reading_is_not_a_reason(monkeypatch):
    async with smu() as (heater, simulation):
        await heater.connect()
        await heater.set_temperature(300.0)
        await settled(simulation, 300.0)
        check, left = heater.loop.check, [1]
        right = check.temperature_c

        def once(reading, set_a):
            if left and left.pop():
                reading = type(reading)(reading.t_ns, reading.voltage_v * 3, reading.current_a)
            return right(reading, set_a)

        monkeypatch.setattr(check, "temperature_c", once)
        await becomes(lambda: heater.loop.implausible_readings == 1)
        await asyncio.sleep(0.5)
        await settled(simulation, 300.0)
        assert heater.loop.is_running


# Faults of the wire.


@pytest.mark.parametrize("driver", [TCP, SERIAL])
@pytest.mark.parametrize("name", ["garbagex3", "short-framex2", "slow=700 msx1", "hang"])
async def test_what_gets_lost_is_asked_for_again(driver, name, monkeypatch):
    monkeypatch.setattr("pyrotome.drivers.keithley.source_unit.SILENCE_S", 1.5)
    async with smu(driver) as (heater, simulation):
        await heater.connect()
        await heater.set_temperature(300.0)
        await settled(simulation, 300.0)
        samples, following = followed(heater)
        fault(simulation, name)
        if name == "hang":
            await asyncio.sleep(0.6)
            fault(simulation, "none")
        await becomes(lambda: heater.unit.lost_readings >= 1)
        count = len(samples)
        await becomes(lambda: len(samples) > count + 10)
        await becomes(lambda: abs(samples[-1].temperature_c - 300.0) < 2.0)
        await settled(simulation, 300.0)
        assert not following.done()
        await heater.disconnect()
        await following


async def test_refusal_is_told_in_the_instruments_words():
    async with smu() as (heater, simulation):
        await heater.connect()
        await heater.set_temperature(300.0)
        await settled(simulation, 300.0)
        fault(simulation, "error")
        await tripped(heater, simulation, DeviceRefused, r"error -200 \(Execution error\)")


async def test_output_that_is_turned_off_by_somebody_else():
    async with smu() as (heater, simulation):
        await heater.connect()
        await heater.set_temperature(300.0)
        heater.unit.link.post(":OUTP OFF")
        await tripped(heater, simulation, DeviceRefused, r"803 \(Not permitted with OUTPUT off\)")


async def test_silence_is_a_loss(monkeypatch):
    monkeypatch.setattr("pyrotome.drivers.keithley.source_unit.SILENCE_S", 0.5)
    monkeypatch.setattr("pyrotome.drivers.keithley.source_unit.OFF_TIMEOUT_S", 0.3)
    async with smu() as (heater, simulation):
        await heater.connect()
        await heater.set_temperature(300.0)
        await settled(simulation, 300.0)
        fault(simulation, "hang")
        async with asyncio.timeout(60):
            with pytest.raises(DeviceLost, match=r"could not be confirmed off.*front panel"):
                async for _ in heater.samples():
                    pass
        assert abs(true_c(simulation) - 300.0) < 25.0  # it is still on, and no hotter
        with pytest.raises(DeviceError):
            await heater.make_safe()
        fault(simulation, "none")
        await heater.make_safe()
        await is_cold(simulation)


async def test_connection_that_breaks_is_opened_anew_to_turn_off():
    async with smu() as (heater, simulation):
        await heater.connect()
        await heater.set_temperature(300.0)
        await settled(simulation, 300.0)
        fault(simulation, "disconnectx1")
        await tripped(heater, simulation, DeviceLost, "connection to .* broke")
        await heater.connect()
        await heater.set_temperature(200.0)
        await settled(simulation, 200.0)


async def test_safe_without_having_connected():
    async with smu() as (heater, simulation):
        simulation.world.heater.drive(simulation.clock.now_ns(), 0.006, 20.0)
        other = Keithley2450Heater("other", heater.rig, heater.clock)
        await other.connect()
        await other.set_temperature(300.0)
        await settled(simulation, 300.0)
        await heater.make_safe()
        await is_cold(simulation)
        await other.disconnect()


@pytest.mark.parametrize("driver", [TCP, SERIAL])
async def test_cancelled_regulation_leaves_nothing_heating(driver):
    async with smu(driver) as (heater, simulation):
        await heater.connect()
        await heater.set_temperature(300.0)
        await settled(simulation, 300.0)
        heater.loop._task.cancel()  # as when the event loop ends
        await is_cold(simulation)


@pytest.mark.parametrize("driver", [TCP, SERIAL])
async def test_nothing_stays_open(driver):
    async with smu(driver) as (heater, _):
        await heater.connect()
        await heater.disconnect()
        await asyncio.sleep(0.05)
        before = psutil.Process().num_fds()
        for _ in range(3):
            await heater.connect()
            await heater.disconnect()
        await becomes(lambda: psutil.Process().num_fds() <= before)


async def test_disconnecting_wakes_a_command():
    async with smu() as (heater, simulation):
        await heater.connect()
        fault(simulation, "hang")
        await asyncio.sleep(0.05)
        going = asyncio.create_task(heater.set_temperature(200.0))
        await asyncio.sleep(0.05)
        fault(simulation, "none")
        await heater.disconnect()
        with contextlib.suppress(DeviceLost):
            await going


# Setting up.


async def test_limits_are_in_the_instrument_before_the_output_is_on():
    async with smu(max_current_a=0.009, compliance_v=5.0) as (heater, _):
        await heater.connect()
        for query, wanted in (
            (":SOUR:CURR:VLIM?", 5.0), (":SOUR:CURR:RANG?", 0.01), (":SENS:VOLT:RSEN?", 1.0),
            (":SENS:VOLT:RANG?", 20.0), (":SENS:VOLT:NPLC?", 0.1), (":OUTP?", 1.0),
        ):  # fmt: skip
            reader, writer = await asyncio.open_connection(*_address(heater))
            writer.write(query.encode() + b"\n")
            async with asyncio.timeout(60):
                assert float(await reader.readline()) == pytest.approx(wanted)
            writer.close()


def _address(heater):
    host, _, port = heater.rig.endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


class Odd:
    """Answers a 2450's set-up by the book, but for what a test wants otherwise."""

    def __init__(self):
        self.answers, self.heard = {}, []

    async def __call__(self, reader, writer):
        while line := await reader.readline():
            text = line.decode().strip()
            if not text:
                continue
            self.heard.append(text)
            answer = next((a for start, a in self.answers.items() if text.startswith(start)), None)
            if answer is None and ":OUTP?" in text:
                answer = "0;1" if "OUTP 1" in text else '0;0,"No error"'
            elif answer is None and "?" in text:
                answer = {
                    "*IDN?": "KEITHLEY INSTRUMENTS,MODEL 2450,1,1",
                    "*LANG?": "SCPI",
                    "*RST;*CLS;*OPC?": "1",
                    ":SYST:ERR?": '0,"No error"',
                }.get(text) or text.split(";")[0].split(" ")[1]
            if answer:
                writer.write(answer.encode() + b"\n")


def heater_at(port, driver=Keithley2450Heater, **options):
    rig = HeaterRig(
        driver="x",
        endpoint=f"tcp://127.0.0.1:{port}",
        options={"calibration_file": str(FILE), **options},
    )
    return driver("heater (x)", rig, ExperimentClock())


@pytest.mark.parametrize(
    ("start", "answer", "message"),
    [
        ("*IDN?", "DENS,Impulse,1,2", r"'DENS Impulse'; this driver supports 2450"),
        ("*IDN?", "hello", r"'hello'"),
        ("*IDN?", "KEITHLEY INSTRUMENTS,MODEL 2400,1,1", "2400"),
        ("*LANG?", "TSP", "Set it to SCPI"),
        (":SOUR:CURR:VLIM", "21.0", r"set :SOUR:CURR:VLIM to .*it reads back '21.0'"),
        (":SENS:VOLT:RSEN", "0", "set :SENS:VOLT:RSEN to 1"),
        (":SOUR:CURR:RANG", "1e-3", "set :SOUR:CURR:RANG"),
        (":SYST:ERR?", '-221,"Settings conflict"', "Settings conflict"),
    ],
)
async def test_setting_up_that_goes_wrong(serve, start, answer, message):
    odd = Odd()
    odd.answers[start] = answer
    heater = heater_at(await serve(odd))
    # What is no identity may be the rest of an older answer: it is asked for until the deadline.
    with pytest.raises(DeviceRefused, match=message):
        await heater.connect(4.0 if answer == "hello" else 20.0)
    assert not any("OUTP 1" in text for text in odd.heard)
    await heater.disconnect()


async def test_output_that_does_not_go_off_is_told(serve):
    odd = Odd()
    odd.answers[":OUTP 0"] = '1;0,"No error"'
    heater = heater_at(await serve(odd))
    with pytest.raises(DeviceRefused, match=r"reads back that the output is on.*front panel"):
        await heater.make_safe()
    await heater.disconnect()


async def test_a_2450_in_the_command_set_of_the_2400(serve):
    odd = Odd()
    odd.answers["*LANG?"] = "SCPI2400"
    heater = heater_at(await serve(odd))
    with pytest.raises(DeviceRefused, match="the output stays off"):
        await heater.connect(20.0)
    assert ":SYST:RSEN 1;:SYST:RSEN?" in odd.heard
    await heater.disconnect()


def test_rigs_that_are_none(tmp_path):
    def make(driver, endpoint, **options):
        options = {"calibration_file": str(FILE), **options}
        rig = HeaterRig(driver="x", endpoint=endpoint, options=options)
        return driver("x", rig, ExperimentClock())

    assert make(Keithley2400Heater, "serial:///dev/ttyUSB0").unit.link.byte_s == 10 / 9600
    assert make(Keithley2400Heater, "tcp://127.0.0.1:4001").unit.link.byte_s == 0
    for endpoint in ("serial:ttyUSB0", "/dev/ttyUSB0", "http://h:1"):
        with pytest.raises(BadInput, match=r"heater.endpoint.*://HOST:PORT.*serial:///dev"):
            make(Keithley2400Heater, endpoint)
    with pytest.raises(BadInput, match=r"heater.endpoint.*tcp://HOST:PORT"):
        make(Keithley2450Heater, "serial:///dev/ttyUSB0")
    with pytest.raises(BadInput, match=r"heater.options.calibration_file: .*cannot be read"):
        make(Keithley2450Heater, "tcp://h:1", calibration_file=str(tmp_path / "none.json"))
    body = json.loads(FILE.read_text())
    del body["power"]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(body))
    with pytest.raises(BadInput, match=r"heater.options.max_current_a: is needed"):
        make(Keithley2450Heater, "tcp://h:1", calibration_file=str(path))
    make(Keithley2450Heater, "tcp://h:1", calibration_file=str(path), max_current_a=0.01)


def test_the_rate_is_what_the_baud_rate_allows():
    def cycle_s(baud):
        rig = HeaterRig(
            driver="x",
            endpoint="serial:///dev/ttyUSB0",
            options={"calibration_file": str(FILE), "baud": baud},
        )
        return Keithley2400Heater("x", rig, ExperimentClock()).loop.expected_cycle_s

    # 29 bytes out, 28 back, ten bits each, and two integrations of 2 ms.
    assert cycle_s(9600) == pytest.approx(57 * 10 / 9600 + 0.004, abs=0.003)
    assert cycle_s(57600) < 0.016


def test_the_example_rig():
    rig, _ = load_rig(FILE.parent / "keithley.yaml")
    heater = make_device(rig, "heater", ExperimentClock())
    assert heater.calibration == load_calibration(FILE)
    assert heater.calibration.chip == "illustrative-001"


async def test_no_such_port():
    rig = HeaterRig(
        driver="x",
        endpoint="serial:///dev/no-such-port",
        options={"calibration_file": str(FILE)},
    )
    heater = Keithley2400Heater("heater (x)", rig, ExperimentClock())
    with pytest.raises(
        DeviceLost, match=r"nothing listens at serial:///dev/no-such-port \(No such"
    ):
        await heater.connect(1.0)
    with pytest.raises(DeviceLost):
        await heater.make_safe()


async def test_a_port_that_goes_away():
    ours, theirs = os.openpty()
    path = os.ttyname(theirs)
    rig = HeaterRig(
        driver="x", endpoint=f"serial://{path}", options={"calibration_file": str(FILE)}
    )
    heater = Keithley2400Heater("heater (x)", rig, ExperimentClock())
    connecting = asyncio.create_task(heater.connect(3.0))
    await asyncio.sleep(0.1)
    os.close(theirs)
    os.close(ours)
    with pytest.raises(DeviceLost, match="broke"):
        await connecting
    await heater.disconnect()
