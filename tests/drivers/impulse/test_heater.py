"""The heater against our simulator, and against an Impulse that misbehaves."""

import asyncio
import json
import time
from itertools import pairwise

import numpy as np
import pytest
import zmq
import zmq.asyncio

from pyrotome.drivers.base import DeviceLost, DeviceRefused, OutOfRange
from pyrotome.drivers.common.instrument_time import InstrumentTime
from pyrotome.drivers.impulse.heater import ImpulseHeater
from pyrotome.protocols.config.faults import parse_fault
from pyrotome.protocols.config.rig import HeaterRig
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.wires import impulse
from pyrotome.protocols.wires.impulse import (
    Event,
    HeatSample,
    InputError,
    PropertyInformation,
    Reply,
)
from pyrotome.simulators.servers import impulse as impulse_server
from pyrotome.simulators.world.microscope import World


@pytest.fixture
def quick(monkeypatch):
    """Short deadlines."""
    monkeypatch.setattr("pyrotome.drivers.impulse.heater.GRACE_S", 0.8)
    monkeypatch.setattr("pyrotome.drivers.impulse.control.GRACE_S", 0.8)
    monkeypatch.setattr("pyrotome.drivers.common.sampled_heater.STALE_GRACE_S", 0.2)


async def samples_for(heater, experiment_s):
    end_ns = heater.clock.now_ns() + int(experiment_s * 1e9)
    found = []
    async for sample in heater.samples():
        found.append(sample)
        if sample.t_ns >= end_ns:
            return found
    return found


async def first(heater, wanted, timeout_s=5.0):
    async with asyncio.timeout(timeout_s):
        async for sample in heater.samples():
            if wanted(sample):
                return sample
    raise AssertionError("the samples ended")


# Against our simulator.


@pytest.fixture
async def simulated(simulate):
    async with simulate(speed=5.0) as (simulation, rig):
        heater = ImpulseHeater("heater", rig.heater, simulation.clock)
        assert (await heater.connect()).model == "Impulse"
        yield heater, simulation
        await heater.disconnect()


async def test_goes_there_and_back(simulated):
    heater, _ = simulated
    before_ns = heater.clock.now_ns()
    sent_ns = await heater.set_temperature(350.0)
    assert before_ns <= sent_ns <= heater.clock.now_ns()
    hot = await first(heater, lambda s: s.temperature_c > 340)
    assert hot.setpoint_c == 350.0
    assert hot.t_ns > sent_ns
    assert set(hot.values) == {"power_w", "current_a", "voltage_v", "resistance_ohm"}
    assert hot.values["power_w"] == pytest.approx(
        hot.values["current_a"] * hot.values["voltage_v"], rel=1e-3
    )
    await heater.make_safe()
    cold = await first(heater, lambda s: s.temperature_c < 60)
    assert cold.setpoint_c == heater.rig.limits.safe_c


async def test_ramp_and_hold(simulated):
    heater, _ = simulated
    start = await first(heater, lambda _: True)
    sent_ns = await heater.start_ramp(start.setpoint_c + 300.0, 3.0)
    samples = await samples_for(heater, 1.5)
    ramp = [s for s in samples if s.t_ns > sent_ns + 200_000_000]
    slope = np.polyfit(
        [s.t_ns * 1e-9 - sent_ns * 1e-9 for s in ramp], [s.setpoint_c for s in ramp], 1
    )
    assert slope[0] == pytest.approx(100.0, rel=0.02)
    await heater.hold_here()
    held = await samples_for(heater, 0.5)
    assert np.ptp([s.setpoint_c for s in held[len(held) // 2 :]]) == 0
    assert 100 < held[-1].setpoint_c < 290


async def test_a_stalled_event_loop_does_not_enter_the_stamps(simulated, monkeypatch):
    heater, simulation = simulated
    late_s, error_s = [], []
    stamp_ns = InstrumentTime.stamp_ns

    def watched(self, instrument_s, received_ns):
        true_ns = simulation.clock.epoch_utc_ns + instrument_s * 1e9
        t_ns = stamp_ns(self, instrument_s, received_ns)
        late_s.append((received_ns - true_ns) * 1e-9)
        error_s.append((t_ns - true_ns) * 1e-9)
        return t_ns

    async def stall():
        while True:
            time.sleep(0.02)  # noqa: ASYNC251 the point is to stall the loop
            await asyncio.sleep(0.005)

    monkeypatch.setattr(InstrumentTime, "stamp_ns", watched)
    await samples_for(heater, 2.0)
    late_s.clear(), error_s.clear()
    stalling = asyncio.create_task(stall())
    samples = await samples_for(heater, 5.0)
    stalling.cancel()
    await asyncio.wait([stalling])
    assert heater.data.lost_samples == 0
    assert len(samples) == pytest.approx(len(late_s), abs=5)
    assert np.ptp(late_s) > 0.02
    assert np.ptp(error_s) < 0.002
    assert min(error_s) >= 0
    assert all(b.t_ns > a.t_ns for a, b in pairwise(samples))


async def test_too_hot_sends_nothing(simulated):
    heater, _ = simulated
    before = await first(heater, lambda _: True)
    for call in (heater.set_temperature(1000.1), heater.start_ramp(2000.0, 60.0)):
        with pytest.raises(
            OutOfRange, match=r"limits of the rig are -273\.15 to 1000 degC; nothing was sent"
        ):
            await call
    with pytest.raises(OutOfRange):
        await heater.set_temperature(float("nan"))
    with pytest.raises(OutOfRange):
        await heater.start_ramp(100.0, -1.0)
    after = await first(heater, lambda s: s.t_ns > before.t_ns + 500_000_000)
    assert after.setpoint_c == before.setpoint_c


async def test_rate_of_the_rig_is_kept(simulate):
    limits = {"rate": "200 delta_degC/s", "safe_temperature": "30 degC"}
    async with simulate(speed=10.0, heater__limits=limits) as (simulation, rig):
        heater = ImpulseHeater("heater", rig.heater, simulation.clock)
        await heater.connect()
        await heater.set_temperature(425.0)
        samples = await samples_for(heater, 3.0)
        rates = np.diff([s.setpoint_c for s in samples]) / np.diff([s.t_ns * 1e-9 for s in samples])
        assert samples[-1].setpoint_c == 425.0
        assert np.percentile(rates, 99) < 240
        with pytest.raises(OutOfRange, match="the rig's rate allows"):
            await heater.start_ramp(100.0, 0.5)
        sent_ns = heater.clock.now_ns()
        await heater.make_safe()
        assert heater.clock.now_ns() - sent_ns > 1.5e9
        assert (await first(heater, lambda _: True)).setpoint_c == pytest.approx(30, abs=0.5)
        await heater.disconnect()


async def test_two_readers_see_the_same_and_end_on_disconnect(simulated):
    heater, _ = simulated

    async def until_the_end():
        return [sample async for sample in heater.samples()]

    readers = [asyncio.create_task(until_the_end()) for _ in range(2)]
    await asyncio.sleep(0.2)
    await heater.disconnect()
    one, other = await asyncio.gather(*readers)
    assert len(one) > 10
    assert one == other
    with pytest.raises(DeviceLost, match="not connected"):
        await anext(aiter(heater.samples()))
    await heater.connect()
    await first(heater, lambda _: True)


async def test_units_of_the_simulator_are_taken_over():
    clock = ExperimentClock(5.0)
    world = World(SimulatorRig.model_validate({"chip": {"noise_c": 0.0}}), clock.now_ns())
    units = {"temperatureMeasured": "K", "temperatureSetpoint": "K", "powerMeasured": "mW"}
    any_port = "tcp://127.0.0.1:0"
    async with impulse_server.serve(world, clock, any_port, any_port, 0.01, units=units) as ports:
        rig = HeaterRig(
            driver="dens-impulse", endpoint=ports[0], options={"data_endpoint": ports[1]}
        )
        heater = ImpulseHeater("heater", rig, clock)
        await heater.connect()
        assert (await first(heater, lambda _: True)).temperature_c == pytest.approx(25.0, abs=0.1)
        await heater.start_ramp(300.0, 1.0)
        hot = await first(heater, lambda s: s.setpoint_c > 299.9)
        assert hot.setpoint_c == pytest.approx(300.0, abs=0.2)
        assert world.heater.temperature_c(clock.now_ns()) == pytest.approx(300.0, abs=5)
        assert hot.values["power_w"] == pytest.approx(
            hot.values["current_a"] * hot.values["voltage_v"], rel=1e-3
        )
        await heater.make_safe()
        assert (await first(heater, lambda _: True)).setpoint_c == pytest.approx(25.0)
        await heater.disconnect()


async def test_what_impulse_shows_its_operator_stands_in_the_error(simulated, caplog):
    heater, simulation = simulated
    simulation.switch(parse_fault("heater:errorx2"))
    with pytest.raises(DeviceRefused, match="invalidOperation, the heating controller reports"):
        await heater.set_temperature(100.0)
    while not heater.control.shown:
        await asyncio.sleep(0.01)
    assert "Impulse shows 'the heating controller reports a fault'" in caplog.text
    with pytest.raises(DeviceRefused, match="; it shows 'the heating controller reports a fault'"):
        await heater.set_temperature(100.0)
    await heater.set_temperature(100.0)


async def test_impulse_restarts_in_the_middle_of_a_command(simulated, quick):
    heater, simulation = simulated
    await heater.set_temperature(300.0)
    reading = asyncio.create_task(samples_for(heater, 600.0))
    simulation.switch(parse_fault("heater:disconnectx1"))
    with pytest.raises(DeviceLost):
        await heater.start_ramp(400.0, 10.0)
    with pytest.raises(DeviceLost, match=r"was restarted: sample \d+ at .* came after sample \d+"):
        await reading
    for command in (heater.set_temperature(100.0), heater.hold_here()):
        with pytest.raises(DeviceLost, match=r"was restarted.*Connect again"):
            await command
    with pytest.raises(DeviceLost, match="was restarted"):
        await anext(aiter(heater.samples()))
    await heater.connect()
    assert (await first(heater, lambda _: True)).setpoint_c > 300.0  # it had taken the command
    await heater.set_temperature(100.0)
    assert (await first(heater, lambda s: s.setpoint_c == 100.0)).setpoint_c == 100.0
    assert heater.data.lost_samples == 0


async def test_safe_after_a_restart(simulated, quick):
    heater, simulation = simulated
    await heater.set_temperature(300.0)
    simulation.switch(parse_fault("heater:disconnectx1"))
    await heater.make_safe()
    assert simulation.world.heater.temperature_c(heater.clock.now_ns()) < 60


async def test_a_late_reply_is_not_taken_for_another(simulated, quick):
    heater, simulation = simulated
    simulation.switch(parse_fault("heater:slow=1500 msx1"))
    with pytest.raises(DeviceLost, match=r"within 0\.8 s"):
        await heater.start_ramp(100.0, 1.0)
    simulation.switch(parse_fault("heater:errorx1"))
    # Its own answer, after that of the ramp: the instrument answers one after the other.
    monotonic = time.monotonic()
    with pytest.raises((DeviceLost, DeviceRefused)):
        await heater.hold_here()
    assert time.monotonic() - monotonic < 2
    await asyncio.sleep(1.0)
    simulation.switch(parse_fault("heater:none"))
    await heater.hold_here()


@pytest.mark.parametrize("fault", ["garbage", "short-frame"])
async def test_noise_on_both_sockets(simulated, quick, fault):
    heater, simulation = simulated
    simulation.switch(parse_fault(f"heater:{fault}"))
    with pytest.raises(DeviceRefused, match="not Impulse's"):
        await heater.set_temperature(100.0)
    with pytest.raises(DeviceLost, match="no sample came from"):
        await samples_for(heater, 60.0)
    simulation.switch(parse_fault("heater:none"))
    assert (await first(heater, lambda s: s.setpoint_c == 100.0)).temperature_c > 0
    assert heater.data.lost_samples > 10


# An Impulse that misbehaves.

UNITS = {"temperatureMeasured": "K", "temperatureSetpoint": "K", "powerMeasured": "mW"}


class OddImpulse:
    """Answers and sends what a test wants; temperatures in kelvin, power in milliwatt."""

    def __init__(self, context):
        self.control, self.data = context.socket(zmq.ROUTER), context.socket(zmq.PUB)
        self.ports = [s.bind_to_random_port("tcp://127.0.0.1") for s in (self.control, self.data)]
        self.status, self.channels = "control", ["heat"]
        self.answers, self.heard = {}, []
        self.properties = list(impulse.QUANTITIES)
        self.units = {n: UNITS.get(n, u) for n, (_, u) in impulse.QUANTITIES.items()}
        self.setpoint_c, self.number, self.started = 25.0, 0, time.monotonic()
        self.sending, self.skip, self.obeys = True, 0, True

    async def answer_all(self):
        while True:
            identity, empty, question = await self.control.recv_multipart()
            request = impulse.parse_request(question)
            self.heard.append(request)
            answer = self.answers.get(request.type, self.answer)
            raw = answer(request) if callable(answer) else answer
            if raw is not None:  # None is a reply that gets lost: a ROUTER owes none
                await self.control.send_multipart([identity, empty, raw])

    def answer(self, request):
        data = {
            impulse.GET_STATUS: {"status": self.status},
            impulse.GET_CHANNELS: {"activeChannels": self.channels},
            impulse.GET_PROPERTIES: {"properties": self.properties},
        }.get(request.type, {})
        if request.type == impulse.GET_PROPERTY_INFORMATION:
            name = request.parameters["propertyName"]
            data = PropertyInformation(name, self.units[name]).data()
        if request.type == impulse.START_RAMP and self.obeys:
            self.setpoint_c = request.parameters["temperature"] - 273.15
        return impulse.encode_reply(Reply(data=data))

    async def publish(self):
        while True:
            await asyncio.sleep(0.005)
            if self.sending:
                self.number += 1 + self.skip
                self.skip = 0
                units = {n: impulse.unit_conversion(n, u) for n, u in self.units.items()}
                duration_s = time.monotonic() - self.started
                sample = HeatSample(
                    self.number, duration_s, "2026-01-01", 26.0, self.setpoint_c, power_w=0.012
                )
                await self.data.send_multipart(impulse.encode_heat_sample(sample, units))


@pytest.fixture
async def odd(quick):
    context = zmq.asyncio.Context()
    server = OddImpulse(context)
    tasks = [asyncio.create_task(server.answer_all()), asyncio.create_task(server.publish())]
    rig = HeaterRig(
        driver="dens-impulse",
        endpoint=f"tcp://127.0.0.1:{server.ports[0]}",
        options={"data_endpoint": f"tcp://127.0.0.1:{server.ports[1]}", "stale_s": 0.2},
    )
    heater = ImpulseHeater("heater", rig, ExperimentClock())
    yield server, heater
    await heater.disconnect()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    context.destroy(linger=0)


async def test_units_are_read_and_kept(odd):
    server, heater = odd
    await heater.connect()
    sample = await first(heater, lambda _: True)
    assert sample.temperature_c == pytest.approx(26.0)
    assert sample.values == {"power_w": pytest.approx(0.012)}
    await heater.set_temperature(200.0)
    assert server.heard[-1].parameters["temperature"] == pytest.approx(473.15)
    assert server.heard[-1].parameters["rampTime"] == 0
    await first(heater, lambda s: s.setpoint_c == pytest.approx(200.0))


async def test_units_are_read_again_when_control_comes_back(odd):
    server, heater = odd
    await heater.connect()
    server.units.update(temperatureMeasured="degC", temperatureSetpoint="degC")
    await server.data.send_multipart(impulse.encode_event(Event("", {"newState": "control"})))
    await asyncio.sleep(0.1)
    assert (await first(heater, lambda _: True)).temperature_c == pytest.approx(26.0)


async def test_unknown_unit_is_refused(odd):
    server, heater = odd
    server.units["temperatureMeasured"] = "degC"
    server.answers[impulse.GET_PROPERTY_INFORMATION] = lambda request: impulse.encode_reply(
        Reply(data=PropertyInformation(request.parameters["propertyName"], "degF").data())
    )
    with pytest.raises(DeviceRefused, match="advertised in 'degF'"):
        await heater.connect()


async def test_control_that_is_not_given(odd):
    server, heater = odd
    server.status = "monitor"
    with pytest.raises(DeviceRefused, match=r"state 'monitor'.*Give control"):
        await heater.connect(0.5)
    asyncio.get_running_loop().call_later(0.2, setattr, server, "status", "control")
    await heater.connect(2.0)


async def test_no_heating_channel(odd):
    server, heater = odd
    server.channels = ["gas"]
    with pytest.raises(DeviceRefused, match=r"\['gas'\].*heating holder"):
        await heater.connect()
    server.channels, server.properties = ["heat"], ["powerMeasured"]
    with pytest.raises(DeviceRefused, match="temperatureMeasured"):
        await heater.connect()


async def test_no_samples(odd):
    server, heater = odd
    server.sending = False
    with pytest.raises(DeviceLost, match="no sample came from"):
        await heater.connect(0.5)


async def test_refusal_is_told_in_words(odd):
    server, heater = odd
    await heater.connect()
    error = InputError("x", "temperature", "chip limit 300")
    server.answers[impulse.START_RAMP] = impulse.encode_reply(
        Reply("invalidInput", {}, "no", (error,))
    )
    with pytest.raises(DeviceRefused, match="invalidInput, no, temperature: chip limit 300"):
        await heater.set_temperature(400.0)


@pytest.mark.parametrize("raw", [b"garbage", b"{}", b"[]", json.dumps({"resultCode": 1}).encode()])
async def test_reply_that_is_none(odd, raw):
    server, heater = odd
    await heater.connect()
    server.answers[impulse.STOP_RAMP] = raw
    with pytest.raises(DeviceRefused, match="not Impulse's"):
        await heater.hold_here()


async def test_lost_reply_does_not_stick(odd):
    server, heater = odd
    await heater.connect()
    server.answers[impulse.STOP_RAMP] = lambda _: None
    monotonic = time.monotonic()
    with pytest.raises(DeviceLost, match=r"no answer from .* within"):
        await heater.hold_here()
    assert time.monotonic() - monotonic < 3
    del server.answers[impulse.STOP_RAMP]
    await heater.hold_here()
    await heater.set_temperature(100.0)


async def test_safe_in_spite_of_a_lost_reply(odd):
    server, heater = odd
    await heater.connect()
    await heater.set_temperature(300.0)
    lost = iter([True])

    def once_lost(request):
        return None if next(lost, False) else server.answer(request)

    server.answers[impulse.START_RAMP] = once_lost
    await heater.make_safe()
    assert server.setpoint_c == pytest.approx(25.0)


async def test_safe_is_not_believed_without_the_samples(odd):
    server, heater = odd
    await heater.connect()
    await heater.set_temperature(300.0)
    server.obeys = False
    with pytest.raises(
        DeviceRefused, match=r"accepted the command and still sends a setpoint of 300"
    ):
        await heater.make_safe()


async def test_safe_from_the_start_and_without_samples(odd):
    server, heater = odd
    server.setpoint_c = 300.0
    await heater.make_safe()
    assert server.setpoint_c == pytest.approx(25.0)
    await heater.disconnect()
    server.setpoint_c, server.sending = 300.0, False
    with pytest.raises(DeviceLost, match="no sample came from"):
        await heater.make_safe()
    assert server.setpoint_c == pytest.approx(25.0)


async def test_stale_samples_are_a_loss_and_come_back(odd):
    server, heater = odd
    await heater.connect()
    reading = asyncio.create_task(samples_for(heater, 60.0))
    await asyncio.sleep(0.05)
    server.sending = False
    started = time.monotonic()
    with pytest.raises(DeviceLost, match=r"read samples: no sample came from .* within 0.4 s"):
        await reading
    assert time.monotonic() - started < 1.5
    server.sending = True
    await first(heater, lambda _: True)


async def test_gaps_and_nonsense_among_the_samples_are_counted(odd):
    server, heater = odd
    await heater.connect()
    await first(heater, lambda _: True)
    assert heater.data.lost_samples == 0
    server.skip = 7
    for parts in (
        [b"heat"],
        [b"heat", b"{}"],
        [b"heat", b"\xff"],
        [b"events", b"x"],
        [b"heatwave", b"{}"],
    ):
        await server.data.send_multipart(parts)
    await samples_for(heater, 0.1)
    assert heater.data.lost_samples == 7


async def test_disconnecting_in_the_middle_of_a_command(odd):
    server, heater = odd
    await heater.connect()
    server.answers[impulse.STOP_RAMP] = lambda _: None
    command = asyncio.create_task(heater.hold_here())
    await asyncio.sleep(0.05)
    await heater.disconnect()
    with pytest.raises(DeviceLost):
        await command
