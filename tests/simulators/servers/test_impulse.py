"""The Impulse wire by plain ZeroMQ and by the vendor's own client, impulsePy."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise

import pytest
import zmq
import zmq.asyncio

from pyrotome.protocols.config.faults import parse_fault
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.process import ClockConfig
from pyrotome.simulators.servers import impulse
from pyrotome.simulators.servers.wire_faults import WireFaults
from pyrotome.simulators.world.microscope import World


@asynccontextmanager
async def client(devices):
    context = zmq.asyncio.Context()
    control, data = context.socket(zmq.REQ), context.socket(zmq.SUB)
    control.connect(devices["heater"]["endpoint"])
    data.connect(devices["heater"]["options"]["data_endpoint"])
    data.setsockopt(zmq.SUBSCRIBE, b"")

    async def ask(message):
        raw = message if isinstance(message, bytes) else json.dumps(message).encode()
        await control.send(raw)
        return json.loads(await asyncio.wait_for(control.recv(), 60))

    async def receive():
        topic, body = await asyncio.wait_for(data.recv_multipart(), 60)
        return topic, json.loads(body)

    try:
        yield ask, receive
    finally:
        context.destroy(linger=0)


async def test_handshake_ramp_and_event(simulate):
    async with simulate() as simulation, client(simulation.devices) as (ask, receive):
        status = await ask({"$type": "control.impulse.getStatus"})
        assert status["resultCode"] == "ok"
        assert status["data"] == {"status": "control"}
        channels = await ask({"$type": "control.impulse.getAvailableDataChannels"})
        assert channels["data"]["activeChannels"] == ["heat"]
        properties = await ask(
            {"$type": "control.impulse.getAvailableProperties", "channelName": "heat"}
        )
        units = {}
        for name in properties["data"]["properties"]:
            answer = await ask(
                {
                    "$type": "control.impulse.getPropertyInformation",
                    "channelName": "heat",
                    "propertyName": name,
                }
            )
            assert answer["data"]["propertyName"] == name
            assert isinstance(answer["data"]["precision"], int)
            units[name] = answer["data"]["unit"]
        assert units["temperatureMeasured"] == "degC"
        assert units["experimentDuration"] == "s"
        reply = await ask({"$type": "control.heat.startRamp", "temperature": 100, "rampTime": 0.3})
        assert reply["resultCode"] == "ok"
        samples = []
        while True:
            topic, body = await receive()
            if topic == b"events":
                break
            samples.append(body)
        assert body["$type"] == "data.event.stimulusActionFinished"
        assert body["stimulusType"] == "heat"
        assert samples[-1]["temperatureMeasured"] == pytest.approx(100.0, abs=1.0)
        numbers = [s["sequenceNumber"] for s in samples]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        last = samples[-1]
        assert last["voltageMeasured"] / last["currentMeasured"] == pytest.approx(
            last["resistance"]
        )
        assert datetime.fromisoformat(last["timeStamp"]).year >= 2026


async def test_samples_carry_the_moment_at_which_they_were_true(simulate):
    config = SimulatorRig.model_validate(
        {"chip": {"noise_c": 0.0}, "specimen": {"kind": "cu-sintering", "particles": 1}}
    )
    async with simulate(config) as simulation, client(simulation.devices) as (ask, receive):
        await ask({"$type": "control.heat.startRamp", "temperature": 300, "rampTime": 2.0})
        samples = [(await receive())[1] for _ in range(60)]
        for sample in samples[10:]:
            t_ns = simulation.clock.epoch_utc_ns + round(sample["experimentDuration"] * 1e9)
            true = simulation.world.heater.temperature_c(t_ns)
            assert sample["temperatureMeasured"] == pytest.approx(true, abs=0.01)
        gaps = [b["experimentDuration"] - a["experimentDuration"] for a, b in pairwise(samples)]
        assert min(gaps) > 0
        assert sorted(gaps)[len(gaps) // 2] == pytest.approx(0.01, abs=0.003)


async def test_at_speed_samples_stay_below_500_a_second(simulate):
    async with simulate(speed=20.0) as simulation, client(simulation.devices) as (_, receive):
        samples = [(await receive())[1] for _ in range(80)]
        span = samples[-1]["experimentDuration"] - samples[0]["experimentDuration"]
        assert span / 79 >= 0.0395


async def test_stop_ramp_holds(simulate):
    async with simulate(speed=10.0) as simulation, client(simulation.devices) as (ask, receive):
        await ask({"$type": "control.heat.startRamp", "temperature": 900, "rampTime": 1000})
        for _ in range(50):
            await receive()
        assert (await ask({"$type": "control.heat.stopRamp"}))["resultCode"] == "ok"
        later = [(await receive())[1]["temperatureSetpoint"] for _ in range(60)][20:]
        assert 25.0 < later[0] < 100.0
        assert len(set(later)) == 1


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", "badRequest"),
        (b"\xff\x00garbage", "badRequest"),
        (b"[1, 2]", "badRequest"),
        (b"[" * 100_000, "badRequest"),
        ({"temperature": 100}, "badRequest"),
        ({"$type": "bogus"}, "badRequest"),
        ({"$type": "control.bias.applyConstantBias", "setpoint": 1}, "invalidOperation"),
        ({"$type": "control.impulse.getAvailableProperties"}, "invalidInput"),
        (
            {
                "$type": "control.impulse.getPropertyInformation",
                "channelName": "heat",
                "propertyName": "x",
            },
            "invalidInput",
        ),
        ({"$type": "control.heat.startRamp"}, "invalidInput"),
        ({"$type": "control.heat.startRamp", "temperature": 100}, "invalidInput"),
        ({"$type": "control.heat.startRamp", "temperature": "hot", "rampTime": 0}, "invalidInput"),
        ({"$type": "control.heat.startRamp", "temperature": 9999, "rampTime": 0}, "invalidInput"),
        ({"$type": "control.heat.startRamp", "temperature": 100, "rampTime": -1}, "invalidInput"),
        (
            b'{"$type": "control.heat.startRamp", "temperature": NaN, "rampTime": 0}',
            "invalidInput",
        ),
        (
            {"$type": "control.heat.startRamp", "temperature": 10**400, "rampTime": 0},
            "invalidInput",
        ),
        (
            {"$type": "control.heat.startRamp", "temperature": 100, "rampTime": 10**400},
            "invalidInput",
        ),
        ({"$type": "control.heat.startRamp", "temperature": True, "rampTime": 0}, "invalidInput"),
    ],
)
async def test_bad_requests_are_answered_and_change_nothing(simulate, message, code):
    async with simulate() as simulation, client(simulation.devices) as (ask, receive):
        reply = await ask(message)
        assert reply["resultCode"] == code
        if code == "invalidInput":
            (error,) = reply["data"]["errors"]
            assert error["parameter"]
            assert error["description"]
        assert (await ask({"$type": "control.impulse.getStatus"}))["resultCode"] == "ok"
        assert (await receive())[1]["temperatureSetpoint"] == 25.0


async def test_a_request_of_many_parts_is_answered(simulate):
    async with simulate() as simulation:
        context = zmq.asyncio.Context()
        try:
            control = context.socket(zmq.REQ)
            control.connect(simulation.devices["heater"]["endpoint"])
            await control.send_multipart([b"{}", b"{}"])
            reply = json.loads(await asyncio.wait_for(control.recv(), 60))
            assert reply["resultCode"] == "badRequest"
        finally:
            context.destroy(linger=0)


# Faults.


async def test_a_hang_sends_neither_answers_nor_samples(simulate):
    async with simulate() as simulation, client(simulation.devices) as (ask, receive):
        await receive()
        simulation.switch(parse_fault("heater:hang"))
        question = asyncio.create_task(ask({"$type": "control.impulse.getStatus"}))
        await asyncio.sleep(0.05)
        with contextlib.suppress(TimeoutError):  # what was sent before the hang
            while True:
                await asyncio.wait_for(receive(), 0.3)
        assert not question.done()
        simulation.switch(parse_fault("heater:none"))
        assert (await question)["resultCode"] == "ok"
        await receive()


async def test_a_restart_on_the_same_ports(simulate):
    async with simulate() as simulation, client(simulation.devices) as (ask, receive):
        before = [(await receive())[1] for _ in range(20)]
        simulation.switch(parse_fault("heater:disconnectx1"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask({"$type": "control.heat.stopRamp"}), 0.5)
        number = before[-1]["sequenceNumber"]
        while True:
            topic, after = await receive()
            if topic == b"heat" and after["sequenceNumber"] < number:
                break
            number = after.get("sequenceNumber", number)
        assert after["experimentDuration"] < 5
        async with client(simulation.devices) as (ask_again, _):
            status = await ask_again({"$type": "control.impulse.getStatus"})
            assert status["data"] == {"status": "control"}


async def test_refusal_is_shown_in_a_popup(simulate):
    async with simulate() as simulation, client(simulation.devices) as (ask, receive):
        await receive()
        simulation.switch(parse_fault("heater:errorx1"))
        ramp = {"$type": "control.heat.startRamp", "temperature": 100, "rampTime": 0}
        assert (await ask({"$type": "control.impulse.getStatus"}))["resultCode"] == "ok"
        refusal = await ask(ramp)
        assert refusal["resultCode"] == "invalidOperation"
        while (message := await receive())[0] != b"events":
            assert message[1]["temperatureSetpoint"] == 25.0
        assert message[1] == {"$type": "data.event.popupRaised", "message": refusal["message"]}
        assert (await ask(ramp))["resultCode"] == "ok"


@pytest.mark.parametrize("fault", ["garbage", "short-frame"])
async def test_bad_answers_and_bad_samples(simulate, fault):
    async with simulate() as simulation, client(simulation.devices) as (ask, receive):
        await receive()
        simulation.switch(parse_fault(f"heater:{fault}"))
        with pytest.raises(ValueError, match=r"Expecting|decode|Unterminated"):
            await ask({"$type": "control.impulse.getStatus"})
        with pytest.raises(ValueError, match=r"Expecting|decode|Unterminated"):
            for _ in range(100):
                await receive()
        simulation.switch(parse_fault("heater:none"))
        assert (await ask({"$type": "control.impulse.getStatus"}))["resultCode"] == "ok"


async def test_units_that_are_asked_for():
    clock = ClockConfig.of(ExperimentClock()).clock()
    world = World(SimulatorRig.model_validate({"chip": {"noise_c": 0.0}}), clock.now_ns())
    any_port = "tcp://127.0.0.1:0"
    units = {"temperatureMeasured": "K", "temperatureSetpoint": "K", "powerMeasured": "mW"}
    async with impulse.serve(world, clock, any_port, any_port, 0.02, units=units) as ports:
        devices = {"heater": {"endpoint": ports[0], "options": {"data_endpoint": ports[1]}}}
        async with client(devices) as (ask, receive):
            for name, unit in {**units, "voltageMeasured": "V"}.items():
                question = {"$type": "control.impulse.getPropertyInformation"}
                question |= {"channelName": "heat", "propertyName": name}
                assert (await ask(question))["data"]["unit"] == unit
            ramp = {"$type": "control.heat.startRamp", "temperature": 473.15, "rampTime": 0}
            assert (await ask(ramp))["resultCode"] == "ok"
            while (sample := (await receive())[1]).get("temperatureSetpoint") != 473.15:
                pass
            while sample["temperatureMeasured"] < 470:
                sample = (await receive())[1]
            power_mw = 1e3 * sample["voltageMeasured"] * sample["currentMeasured"]
            assert sample["powerMeasured"] == pytest.approx(power_mw)
            assert world.heater.temperature_c(clock.now_ns()) > 190
    with pytest.raises(ValueError, match="powerMeasured"):
        async with impulse.serve(
            world, clock, any_port, any_port, 0.02, units={"powerMeasured": "K"}
        ):
            pass


SCRIPT = """
import time
import impulsePy
deadline = time.monotonic() + 60
while b"heat" not in impulsePy.subscriber.topics or not len(impulsePy.subscriber.topics[b"heat"]):
    assert time.monotonic() < deadline
    time.sleep(0.05)
information = impulsePy.getParameterInfo().set_index("propertyName")
assert information.loc["powerMeasured", "unit"] == "mW"
assert information.loc["temperatureMeasured", "unit"] == "degC"
assert impulsePy.heat.startRamp(150, "rampTime", 0.5) == "invalidOperation"
assert impulsePy.status["heat"] == "ready"
while not len(impulsePy.subscriber.topics[b"events"]):
    assert time.monotonic() < deadline
    time.sleep(0.02)
event = impulsePy.subscriber.topics[b"events"].iloc[0]
assert event["$type"] == "data.event.popupRaised"
assert "fault" in event["message"]
assert impulsePy.heat.startRamp(150, "rampTime", 0.5) == "ok"
assert impulsePy.status["heat"] == "busy"
while impulsePy.status["heat"] == "busy":
    assert time.monotonic() < deadline
    time.sleep(0.02)
first = impulsePy.heat.data.getLastData()
impulsePy.heat.set(80)
while impulsePy.status["heat"] == "busy":
    assert time.monotonic() < deadline
    time.sleep(0.02)
time.sleep(0.2)
last = impulsePy.heat.data.getLastData()
assert impulsePy.heat.stopRamp() == "ok"
impulsePy.disconnect()
print("RESULT", first["temperatureMeasured"], last["temperatureMeasured"])
"""


def in_use(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@pytest.mark.interop
async def test_the_vendors_client_drives_it():
    pytest.importorskip("pandas")  # what impulsePy parses the time stamps with
    if in_use(5556) or in_use(5557):
        pytest.skip("impulsePy knows only ports 5556 and 5557, and one of them is in use here")
    clock = ClockConfig.of(ExperimentClock()).clock()
    world = World(SimulatorRig(), clock.now_ns())
    control, data = "tcp://127.0.0.1:5557", "tcp://127.0.0.1:5556"
    faults = WireFaults(impulse.FAULTS)
    faults.switch(parse_fault("heater:errorx1"))
    units = {"powerMeasured": "mW"}
    async with impulse.serve(world, clock, control, data, 0.02, faults, units):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, problems = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if b"No module named 'impulsePy'" in problems:
        pytest.skip("impulsePy is not installed")
    assert process.returncode == 0, problems.decode()
    values = [float(v) for v in out.decode().split("RESULT")[1].split()]
    assert values[0] == pytest.approx(150.0, abs=1.0)
    assert values[1] == pytest.approx(80.0, abs=1.0)
