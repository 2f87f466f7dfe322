"""The SECoP heater against our simulator, frappy's cryostat, and nodes that misbehave."""

import asyncio
import contextlib
import json
import time
from itertools import pairwise

import pytest

from pyrotome.drivers.base import DeviceLost, DeviceRefused, OutOfRange
from pyrotome.drivers.secop.control import ModuleControl
from pyrotome.drivers.secop.heater import SecopHeater
from pyrotome.drivers.secop.link import SecopLink
from pyrotome.protocols.config.faults import parse_fault
from pyrotome.protocols.config.rig import HeaterRig
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.simulators.servers import secop as server
from pyrotome.simulators.world.microscope import World

FEW = SimulatorRig.model_validate({"specimen": {"kind": "cu-sintering", "particles": 1}})


def heater_of(endpoint, clock=None, limits=None, **options):
    rig = HeaterRig.model_validate(
        {"driver": "secop", "endpoint": endpoint, "options": options, "limits": limits or {}}
    )
    return SecopHeater("heater", rig, clock or ExperimentClock())


@pytest.fixture
def quick(monkeypatch):
    """Short deadlines."""
    monkeypatch.setattr("pyrotome.drivers.secop.heater.GRACE_S", 0.6)
    monkeypatch.setattr("pyrotome.drivers.secop.data.GRACE_S", 0.6)
    monkeypatch.setattr("pyrotome.drivers.common.sampled_heater.STALE_GRACE_S", 0.2)
    monkeypatch.setattr(SecopLink.request, "__defaults__", (0.6, None))
    monkeypatch.setattr(ModuleControl.read_c, "__defaults__", (0.6,))


async def first(heater, wanted, timeout_s=8.0):
    async with asyncio.timeout(timeout_s):
        async for sample in heater.samples():
            if wanted(sample):
                return sample
    raise AssertionError("the samples ended")


async def samples_for(heater, experiment_s):
    end_ns = heater.clock.now_ns() + int(experiment_s * 1e9)
    found = []
    async for sample in heater.samples():
        found.append(sample)
        if sample.t_ns >= end_ns:
            break
    return found


# Against our simulator.


@pytest.fixture
def world():
    """Context manager: a server on a world of its own, and a heater connected to it."""

    @contextlib.asynccontextmanager
    async def start(speed=5.0, limits=None, options=None, **module):
        clock = ExperimentClock(speed)
        chip = World(FEW, clock.now_ns())
        async with server.serve(chip, clock, "tcp://127.0.0.1:0", **module) as endpoint:
            heater = heater_of(endpoint, clock, limits, **(options or {}))
            identity = await heater.connect()
            assert identity.vendor == "SECoP"
            try:
                yield heater, chip
            finally:
                await heater.disconnect()

    return start


@pytest.mark.parametrize("unit", ["K", "degC"])
async def test_goes_there_and_back(world, unit):
    async with world(unit=unit) as (heater, chip):
        before_ns = heater.clock.now_ns()
        sent_ns = await heater.set_temperature(350.0)
        assert before_ns <= sent_ns <= heater.clock.now_ns()
        hot = await first(heater, lambda s: s.temperature_c > 340)
        assert hot.setpoint_c == pytest.approx(350.0)
        assert hot.t_ns > sent_ns
        truth_c = chip.heater.temperature_c(hot.t_ns)
        assert hot.temperature_c == pytest.approx(truth_c, abs=10)
        await heater.make_safe()
        cold = await first(heater, lambda s: s.temperature_c < 60)
        assert cold.setpoint_c == pytest.approx(heater.rig.limits.safe_c)


async def test_samples_are_in_order_and_not_from_the_future(world):
    async with world() as (heater, _):
        found = await samples_for(heater, 2.0)
        assert len(found) > 20
        assert all(a.t_ns < b.t_ns for a, b in pairwise(found))
        assert found[-1].t_ns <= heater.clock.now_ns()


async def test_ramp_and_hold(world):
    async with world() as (heater, _):
        started_ns = await heater.start_ramp(225.0, 4.0)
        midway = await first(heater, lambda s: s.temperature_c > 125)
        assert (midway.t_ns - started_ns) * 1e-9 == pytest.approx(2.0, abs=0.4)
        await heater.hold_here()
        await heater.clock.sleep(1.0)
        held = (await samples_for(heater, 0.2))[-1]
        assert 120 < held.temperature_c < 215
        assert held.setpoint_c == pytest.approx(held.temperature_c, abs=8)
        await heater.clock.sleep(1.0)
        later = (await samples_for(heater, 0.2))[-1]
        assert later.setpoint_c == pytest.approx(held.setpoint_c, abs=0.5)


async def test_the_rigs_rate_is_kept(world):
    async with world(limits={"rate": "50 degC/s"}) as (heater, _):
        started_ns = await heater.set_temperature(225.0)
        midway = await first(heater, lambda s: s.temperature_c > 125)
        assert (midway.t_ns - started_ns) * 1e-9 == pytest.approx(2.0, abs=0.4)
        with pytest.raises(OutOfRange, match=r"rig's rate allows .* nothing was sent"):
            await heater.start_ramp(400.0, 1.0)
        before_s = heater.clock.now_s()
        await heater.make_safe()
        assert heater.clock.now_s() - before_s > 1.0
        assert (await samples_for(heater, 0.2))[-1].temperature_c < 60


async def test_beyond_limits_sends_nothing(world):
    async with world(limits={"temperature": "600 degC"}) as (heater, _):
        with pytest.raises(
            OutOfRange, match=r"limits of the rig are .* to 600 degC; nothing was sent"
        ):
            await heater.set_temperature(601.0)
        with pytest.raises(OutOfRange):
            await heater.set_temperature(float("nan"))
        with pytest.raises(OutOfRange, match="limits of the module are -25"):
            await heater.set_temperature(-30.0)
        with pytest.raises(OutOfRange, match=r"module ramps at 0 to 60000 K/min"):
            await heater.start_ramp(500.0, 0.1)
        assert (await samples_for(heater, 0.2))[-1].setpoint_c == pytest.approx(25.0)


async def test_module_without_a_ramp(world):
    async with world(ramps=False) as (heater, _):
        with pytest.raises(
            DeviceRefused, match=r"has no ramp parameter; nothing was sent.*step_every_s"
        ):
            await heater.start_ramp(100.0, 1.0)
        await heater.set_temperature(100.0)
        assert (await first(heater, lambda s: s.temperature_c > 95)).setpoint_c == 100.0
        await heater.hold_here()
        await heater.make_safe()


async def test_steps_stand_in_for_a_ramp(world):
    limits, options = {"rate": "50 degC/s"}, {"step_every_s": 0.2}
    async with world(ramps=False, limits=limits, options=options) as (heater, _):
        started_ns = await heater.start_ramp(225.0, 4.0)
        midway = await first(heater, lambda s: s.temperature_c > 125)
        assert (midway.t_ns - started_ns) * 1e-9 == pytest.approx(2.0, abs=0.6)
        setpoints = {s.setpoint_c for s in await samples_for(heater, 1.0)}
        assert len(setpoints) >= 3
        await heater.hold_here()
        held = (await samples_for(heater, 1.0))[-1]
        assert held.setpoint_c < 224
        await heater.make_safe()
        assert (await samples_for(heater, 0.5))[-1].setpoint_c == pytest.approx(25.0, abs=0.5)


async def test_a_rate_without_ramp_or_steps_is_told_at_once(world):
    with pytest.raises(DeviceRefused, match=r"rate of 50 degC/s.*no ramp.*step_every_s"):
        async with world(ramps=False, limits={"rate": "50 degC/s"}):
            pass


async def test_safe_temperature_that_the_module_has_not(world):
    with pytest.raises(DeviceRefused, match=r"safe temperature of -40 degC.*-25 to 1300 degC"):
        async with world(limits={"safe_temperature": "-40 degC"}):
            pass


async def test_made_safe_without_having_been_connected(world):
    async with world() as (heater, chip):
        await heater.set_temperature(300.0)
        await first(heater, lambda s: s.temperature_c > 250)
        await heater.disconnect()
        other = heater_of(heater.rig.endpoint, heater.clock)
        await other.make_safe()
        await other.clock.sleep(1.0)
        assert chip.heater.temperature_c(other.clock.now_ns()) < 60
        await other.disconnect()


async def test_two_readers_get_every_sample(world):
    async with world() as (heater, _):
        both = await asyncio.gather(samples_for(heater, 1.0), samples_for(heater, 1.0))
        assert [s.t_ns for s in both[0][:10]] == [s.t_ns for s in both[1][:10]]


async def test_disconnecting_ends_the_samples(world):
    async with world() as (heater, _):
        reading = asyncio.create_task(samples_for(heater, 1e6))
        await asyncio.sleep(0.1)
        await heater.disconnect()
        assert await reading
        with pytest.raises(DeviceLost, match="not connected"):
            await heater.hold_here()


# The simulator's faults.


@pytest.fixture
async def faulty(simulate, quick):
    heater = {"driver": "secop", "endpoint": "tcp://127.0.0.1:0", "options": {"stale_s": 2.0}}
    async with simulate(
        speed=5.0, heater__driver="secop", heater__endpoint="tcp://127.0.0.1:0", heater__options={}
    ) as (simulation, rig):
        entry = rig.heater.model_copy(update={"options": heater["options"]})
        driver = SecopHeater("heater", entry, simulation.clock)
        await driver.connect()
        yield driver, simulation
        await driver.disconnect()


async def test_hang_is_a_loss_and_passes(faulty):
    heater, simulation = faulty
    simulation.switch(parse_fault("heater:hang"))
    with pytest.raises(DeviceLost, match=r"go to 100 degC.*no answer .* within 0\.6 s"):
        await heater.set_temperature(100.0)
    with pytest.raises(DeviceLost, match="not connected"):
        await samples_for(heater, 1e6)
    simulation.switch(parse_fault("heater:none"))
    await heater.connect()
    await heater.set_temperature(200.0)
    assert (await first(heater, lambda s: s.temperature_c > 150)).setpoint_c > 150


async def test_hang_ends_the_samples_and_passes(faulty):
    heater, simulation = faulty
    simulation.switch(parse_fault("heater:hang"))
    with pytest.raises(DeviceLost, match=r"no sample came from .* s"):
        await samples_for(heater, 1e6)
    simulation.switch(parse_fault("heater:none"))
    assert await samples_for(heater, 0.5)


async def test_disconnect_is_a_loss_and_connecting_again_heals(faulty):
    heater, simulation = faulty
    simulation.switch(parse_fault("heater:disconnectx1"))
    with pytest.raises(DeviceLost, match="broke"):
        await samples_for(heater, 1e6)
    with pytest.raises(DeviceLost):
        await heater.set_temperature(100.0)
    await heater.connect()
    await heater.set_temperature(100.0)
    simulation.switch(parse_fault("heater:disconnectx1"))
    await asyncio.sleep(0.2)
    await heater.make_safe()


@pytest.mark.parametrize("fault", ["garbagex3", "short-framex3", "slow=200msx2"])
async def test_what_passes_is_lived_through(faulty, fault):
    heater, simulation = faulty
    simulation.switch(parse_fault(f"heater:{fault}"))
    await asyncio.sleep(0.3)
    await heater.set_temperature(150.0)
    assert (await first(heater, lambda s: s.temperature_c > 120)).setpoint_c > 120


async def test_error_is_told_with_its_text(faulty):
    heater, simulation = faulty
    simulation.switch(parse_fault("heater:error"))
    with pytest.raises(DeviceRefused, match=r"HardwareError: a simulated fault"):
        await heater.set_temperature(100.0)
    with pytest.raises(DeviceRefused, match=r"module reports an error: a simulated fault"):
        await samples_for(heater, 1e6)
    simulation.switch(parse_fault("heater:none"))
    await asyncio.sleep(0.1)
    await heater.make_safe()


# frappy's cryostat, which is not ours.


async def test_frappys_cryostat(foreign, tmp_path):
    with foreign.frappy_server(tmp_path / "frappy") as endpoint:
        heater = heater_of(endpoint, limits={"safe_temperature": "27 degC"})
        identity = await heater.connect()
        assert str(identity).startswith("SECoP insitu.test:T FRAPPY")
        sent_ns = await heater.set_temperature(31.0)
        warm = await first(heater, lambda s: s.temperature_c > 30.5)
        assert warm.setpoint_c == pytest.approx(31.0)
        assert 0 < warm.t_ns - sent_ns < 8e9
        found = await samples_for(heater, 1.0)
        assert len(found) > 5
        assert all(a.t_ns < b.t_ns for a, b in pairwise(found))
        await heater.start_ramp(28.0, 6.0)
        await asyncio.sleep(1.0)
        await heater.hold_here()
        held = (await samples_for(heater, 0.4))[-1].setpoint_c
        assert 28.2 < held < 30.95
        await asyncio.sleep(0.5)
        assert (await samples_for(heater, 0.4))[-1].setpoint_c == pytest.approx(held, abs=0.05)
        with pytest.raises(OutOfRange, match="0 to 1000 K/min"):
            await heater.start_ramp(300.0, 0.1)
        await heater.make_safe()
        assert (await samples_for(heater, 0.3))[-1].setpoint_c == pytest.approx(27.0, abs=0.5)
        await heater.disconnect()
        await heater.make_safe()
        await heater.disconnect()
        wrong = heater_of(endpoint, module="X")
        with pytest.raises(DeviceRefused, match=r"no module 'X'; drivable to a temperature: T"):
            await wrong.connect()


# Nodes that misbehave.


class Node:
    """A node whose lines a test decides."""

    def __init__(self):
        self.heard = []
        self.unit = "K"
        self.modules = ("T",)
        self.classes = ["Drivable"]
        self.extra = {}
        self.values = {"value": 298.15, "target": 298.15, "status": [100, ""]}
        self.answers = {}
        self.writers = []

    def description(self):
        number = {"type": "double", "unit": self.unit}
        accessibles = {
            "value": {"datainfo": number},
            "target": {"datainfo": number, "readonly": False},
            "status": {"datainfo": {"type": "tuple"}},
            **self.extra,
        }
        module = {"accessibles": accessibles, "interface_classes": self.classes}
        return {"equipment_id": "node", "modules": {name: module for name in self.modules}}

    def say(self, line):
        for writer in self.writers:
            writer.write(line.encode() + b"\n")

    async def __call__(self, reader, writer):
        self.writers.append(writer)
        while line := (await reader.readline()).decode().strip():
            action, _, rest = line.partition(" ")
            specifier, _, data = rest.partition(" ")
            self.heard.append((action, specifier, data))
            name = specifier.partition(":")[2]
            if action in self.answers:
                answer = self.answers[action]
                answer = answer(specifier, data) if callable(answer) else answer
                if answer is not None:
                    writer.write(answer.encode() + b"\n")
                continue
            if action == "*IDN?":
                writer.write(b"ISSE,SECoP,V2021-02-14,v1.1\n")
            elif action == "describe":
                writer.write(f"describing . {json.dumps(self.description())}\n".encode())
            elif action == "activate":
                for key, value in self.values.items():
                    writer.write(f"update T:{key} {json.dumps([value, {}])}\n".encode())
                writer.write(b"active\n")
            elif action == "read":
                value = json.dumps([self.values[name], {}])
                writer.write(f"reply {specifier} {value}\n".encode())
            elif action == "change":
                self.values[name] = json.loads(data)
                writer.write(f"changed {specifier} [{data}, {{}}]\n".encode())
            elif action == "do":
                writer.write(f"done {specifier} [null, {{}}]\n".encode())
            elif action == "ping":
                writer.write(f"pong {specifier} [null, {{}}]\n".encode())
            await writer.drain()


def reading(value, t_s):
    return f"update T:value {json.dumps([value, {'t': t_s}])}"


@pytest.fixture
async def odd(serve, quick):
    node = Node()
    heater = heater_of(f"tcp://127.0.0.1:{await serve(node)}", poll_s=0.05, stale_s=0.5)
    yield node, heater
    await heater.disconnect()


async def test_a_node_that_sends_no_updates_is_asked(odd):
    node, heater = odd
    await heater.connect()
    found = await samples_for(heater, 0.5)
    assert len(found) >= 3
    assert sum(heard[:2] == ("read", "T:value") for heard in node.heard) >= 3
    assert all(a.t_ns < b.t_ns for a, b in pairwise(found))


async def test_a_node_that_sends_updates_is_not_asked(odd):
    node, heater = odd
    await heater.connect()

    async def update():
        while True:
            node.say(reading(300.15, time.time()))
            await asyncio.sleep(0.01)

    updating = asyncio.create_task(update())
    await asyncio.sleep(0.1)
    before = len(node.heard)
    found = await samples_for(heater, 0.4)
    updating.cancel()
    await asyncio.wait([updating])
    assert found[-1].temperature_c == pytest.approx(27.0)
    assert len(node.heard) - before <= 1


async def test_stamps_follow_the_nodes_clock(odd):
    node, heater = odd
    await heater.connect()
    following = asyncio.create_task(samples_for(heater, 0.5))
    await asyncio.sleep(0.05)
    zero_s = time.time()
    node.say(reading(300, zero_s))
    await asyncio.sleep(0.05)
    for k in (1, 2, 3, 3, 2, 4):  # late; the third comes twice, and the second again after it
        node.say(reading(300 + k, zero_s + k * 0.001))
    found = [s for s in await following if s.temperature_c > 27.5]
    assert [round(s.temperature_c + 273.15) for s in found] == [301, 302, 303, 304]
    steps = [b.t_ns - a.t_ns for a, b in pairwise(found)]
    assert steps == pytest.approx([1e6] * 3, rel=0.01)


async def test_a_status_of_error_ends_the_samples_with_its_text(odd):
    node, heater = odd
    await heater.connect()
    reading = asyncio.create_task(samples_for(heater, 1e6))
    await asyncio.sleep(0.1)
    node.say('update T:status [[400, "thermocouple broken"], {}]')
    with pytest.raises(DeviceRefused, match="reports an error: thermocouple broken"):
        await reading
    node.say('update T:status [[200, "nearly empty"], {}]')
    await asyncio.sleep(0.1)
    assert await samples_for(heater, 0.1)
    node.values["status"] = [0, "switched off"]
    with pytest.raises(DeviceRefused, match="is disabled: switched off"):
        await heater.connect()


@pytest.mark.parametrize(
    ("report", "match"),
    [
        ('error_change T:target ["RangeError", "too hot", {}]', "RangeError: too hot"),
        ('error_change T:target ["Disabled"]', "Disabled"),
        ("error_change T:target", "an error"),
        ("changed T:target [300.0, {}]", r"set a target of 26\.85 degC instead"),
        ("changed T:target 5", "not"),
    ],
)
async def test_a_target_that_is_not_taken(odd, report, match):
    node, heater = odd
    await heater.connect()
    node.answers["change"] = report
    with pytest.raises(DeviceRefused, match=match):
        await heater.set_temperature(100.0)


async def test_a_command_without_an_answer_costs_the_connection(odd):
    node, heater = odd
    await heater.connect()
    reading = asyncio.create_task(samples_for(heater, 1e6))
    await asyncio.sleep(0.1)
    node.answers["change"] = lambda *_: None
    with pytest.raises(DeviceLost, match=r"go to 100 degC.*within 0\.6 s"):
        await heater.set_temperature(100.0)
    with pytest.raises(DeviceLost, match="broke"):
        await reading
    del node.answers["change"]
    await heater.make_safe()
    assert node.values["target"] == pytest.approx(298.15)


async def test_the_answer_to_a_cancelled_command_is_not_the_next_ones(odd):
    node, heater = odd
    await heater.connect()
    node.answers["change"] = lambda *_: None
    asking = asyncio.create_task(heater.set_temperature(100.0))
    await asyncio.sleep(0.05)
    asking.cancel()
    await asyncio.wait([asking])
    node.answers["change"] = lambda _, data: (
        f'error_change T:target ["TooLate", ""]\nchanged T:target [{data}, {{}}]'
    )
    await heater.set_temperature(50.0)


async def test_a_question_whose_answer_is_lost_can_be_asked_again(odd):
    node, heater = odd
    await heater.connect()
    node.answers["read"] = lambda *_: None
    with pytest.raises(DeviceLost):
        await heater.control.read_c("value", "read it", 0.2)
    del node.answers["read"]
    assert await heater.control.read_c("value", "read it", 0.5) == pytest.approx(25.0)


async def test_readings_that_cease_say_why(odd):
    node, heater = odd
    await heater.connect()
    node.answers["read"] = 'error_read T:value ["HardwareError", "no sensor"]'
    with pytest.raises(DeviceLost, match=r"no sample came from .*HardwareError: no sensor"):
        await samples_for(heater, 1e6)
    node.answers["read"] = lambda *_: None
    with pytest.raises(DeviceLost, match="no sample came from"):
        await samples_for(heater, 1e6)
    async with asyncio.timeout(3):
        while "answers pings" not in heater.readings.trouble:
            await asyncio.sleep(0.05)


async def test_safe_that_is_not_reached_is_not_confirmed(odd):
    node, heater = odd
    node.extra["setpoint"] = {"datainfo": {"type": "double", "unit": "K"}}
    node.values["setpoint"] = 573.15
    await heater.connect()
    with pytest.raises(DeviceRefused, match=r"safe temperature.*setpoint of 300\.0 degC"):
        await heater.make_safe()


async def test_safe_matters_more_than_the_ramp(odd):
    node, heater = odd
    ramp = {"datainfo": {"type": "double", "unit": "K/min", "max": 600}, "readonly": False}
    node.extra["ramp"] = ramp
    node.values |= {"ramp": 1.0, "target": 373.15}
    await heater.connect()

    def refuse_ramp(specifier, data):
        if specifier == "T:ramp":
            return 'error_change T:ramp ["Locked", ""]'
        node.values["target"] = json.loads(data)
        return f"changed {specifier} [{data}, {{}}]"

    node.answers["change"] = refuse_ramp
    await heater.make_safe()
    assert node.values["target"] == pytest.approx(298.15)


async def test_value_of_ramp_that_turns_it_off(serve, quick):
    node = Node()
    ramp = {"datainfo": {"type": "double", "unit": "K/min", "max": 600}, "readonly": False}
    node.extra["ramp"] = ramp
    node.values["ramp"] = 60.0
    heater = heater_of(f"tcp://127.0.0.1:{await serve(node)}", no_ramp=0.0)
    await heater.connect()
    await heater.set_temperature(100.0)
    assert node.values["ramp"] == 0.0
    await heater.start_ramp(160.0, 60.0)
    assert node.values["ramp"] == pytest.approx(60.0)
    assert node.values["target"] == pytest.approx(433.15)
    await heater.disconnect()


@pytest.mark.parametrize(
    ("modules", "option", "match"),
    [
        (("T", "U"), None, r"2 modules can be driven to a temperature: T, U; name one in options"),
        ((), None, "0 modules"),
        (("T",), "X", "no module 'X'"),
    ],
)
async def test_modules_that_do_not_fit(serve, quick, modules, option, match):
    node = Node()
    node.modules = modules
    heater = heater_of(f"tcp://127.0.0.1:{await serve(node)}", module=option)
    with pytest.raises(DeviceRefused, match=match):
        await heater.connect()


async def test_modules_that_are_no_heaters(odd):
    node, heater = odd
    node.unit = "T"
    with pytest.raises(DeviceRefused, match="0 modules"):
        await heater.connect()
    node.unit, node.classes = "K", ["Readable"]
    with pytest.raises(DeviceRefused, match="0 modules"):
        await heater.connect()
    node.classes = ["Drivable"]
    node.extra["ramp"] = {"datainfo": {"type": "double", "unit": "furlong"}, "readonly": False}
    with pytest.raises(DeviceRefused, match="'furlong' is not a rate"):
        await heater.connect()


@pytest.mark.parametrize(
    ("action", "line"),
    [
        ("*IDN?", "SSH-2.0-OpenSSH_9.2"),
        ("describe", "describing . []"),
        ("describe", 'error_describe . ["ProtocolError", "no"]'),
        ("activate", 'error_activate  ["ProtocolError", "no"]'),
        ("read", 'reply T:value ["warm", {}]'),
        ("read", "reply T:value 3"),
        ("read", "reply T:value [NaN, {}]"),
    ],
)
async def test_answers_that_are_none(odd, action, line):
    node, heater = odd
    node.answers[action] = line
    with pytest.raises((DeviceRefused, DeviceLost)) as caught:
        await heater.connect(1.0)
    assert caught.value.remedy


async def test_garbage_between_lines_is_passed_over(odd):
    node, heater = odd
    await heater.connect()
    for line in ("\x00\xff", "update", "update T:value", "update T:value [null, 3]", "changed x y"):
        node.say(line)
    node.say("reply T:target [1, {}]")  # an answer to nothing
    await heater.set_temperature(60.0)
    assert await samples_for(heater, 0.2)


async def test_connection_that_breaks_under_a_command(odd):
    node, heater = odd
    await heater.connect()
    node.answers["change"] = lambda *_: [w.close() for w in node.writers] and None
    with pytest.raises(DeviceLost, match="broke"):
        await heater.set_temperature(60.0)
    del node.answers["change"]
    await heater.make_safe()
    assert node.values["target"] == pytest.approx(298.15)
