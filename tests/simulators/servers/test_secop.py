"""The SECoP wire by plain lines and by frappy's own client."""

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager

import pytest

from pyrotome.protocols.config.faults import parse_fault
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.simulators.servers import secop as server
from pyrotome.simulators.servers.wire_faults import WireFaults
from pyrotome.simulators.world.microscope import World

FEW = SimulatorRig.model_validate({"specimen": {"kind": "cu-sintering", "particles": 1}})


@pytest.fixture
def lines():
    """Context manager: a served world, and a plain conversation with it."""

    @asynccontextmanager
    async def start(speed=5.0, **module):
        clock = ExperimentClock(speed)
        world, faults = World(FEW, clock.now_ns()), WireFaults(server.FAULTS)
        async with server.serve(world, clock, "tcp://127.0.0.1:0", faults, **module) as endpoint:
            port = int(endpoint.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            conversation = Conversation(reader, writer)
            conversation.world, conversation.clock, conversation.faults = world, clock, faults
            conversation.port = port
            try:
                yield conversation
            finally:
                writer.close()

    return start


class Conversation:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def line(self):
        async with asyncio.timeout(60):
            return (await self.reader.readline()).decode().rstrip("\n")

    async def ask(self, request):
        self.writer.write(request if isinstance(request, bytes) else request.encode() + b"\n")
        while (line := await self.line()).startswith("update "):
            pass
        return line

    async def data(self, request):
        return json.loads((await self.ask(request)).split(" ", 2)[2])


@pytest.mark.interop
async def test_frappys_client_reads_activates_and_changes(lines):
    client_module = pytest.importorskip("frappy.client")

    def session(port, seen, unblock):
        client = client_module.SecopClient(f"localhost:{port}", log=None)
        try:
            client.connect(5)
            assert client.modules["heater"]["properties"]["interface_classes"] == ["Drivable"]
            assert client.modules["heater"]["parameters"]["target"]["datatype"].unit == "K"
            client.register_callback(
                ("heater", "value"), updateItem=lambda m, p, item: seen.append(item)
            )
            cold = client.getParameter("heater", "value")
            assert cold.value == pytest.approx(298.15, abs=2)
            assert client.setParameter("heater", "use_ramp", True).value
            client.setParameter("heater", "ramp", 6000.0)
            client.setParameter("heater", "target", 498.15)
            assert client.getParameter("heater", "status").value[0] == 300
            end = time.monotonic() + 60
            while client.cache["heater", "value"].value < 480:
                assert time.monotonic() < end
                time.sleep(0.01)
            while client.cache["heater", "status"].value[0] != 100:
                assert time.monotonic() < end
                time.sleep(0.01)
            client.setParameter("heater", "target", 308.15)
            client.execCommand("heater", "stop")
            assert client.getParameter("heater", "target").value > 308.15
            with pytest.raises(Exception, match="must be between"):
                client.setParameter("heater", "target", 3000.0)
            with pytest.raises(Exception, match="can not be changed"):
                client.request("change", "heater:value", 3)
        finally:
            client.disconnect()
            unblock.set()

    async with lines() as plain:
        seen, done = [], threading.Event()
        await asyncio.to_thread(session, plain.port, seen, done)
        assert done.is_set()
    assert len(seen) > 10
    assert all(item.readerror is None for item in seen)


async def test_words_of_the_protocol(lines):
    async with lines(module="T") as plain:
        assert await plain.ask("*IDN?") == "ISSE&SINE2020,SECoP,V2019-09-16,v1.0"
        described = await plain.ask("describe")
        assert described.startswith("describing . {")
        module = json.loads(described.split(" ", 2)[2])["modules"]["T"]
        assert module["accessibles"]["value"]["datainfo"]["unit"] == "K"
        assert module["accessibles"]["target"]["readonly"] is False
        assert (await plain.ask("ping 7")).startswith("pong 7 [null, {")
        value, qualifiers = await plain.data("read T:value")
        assert value == pytest.approx(298.15, abs=1)
        assert qualifiers["t"] == pytest.approx(plain.clock.now_ns() * 1e-9, abs=20)
        assert (await plain.data("read T"))[0] == pytest.approx(298.15, abs=1)
        assert (await plain.data("change T 400"))[0] == 400
        assert await plain.ask("deactivate") == "inactive"


async def test_updates_come_until_deactivated(lines):
    async with lines() as plain:
        plain.writer.write(b"activate\n")
        burst = []
        while (line := await plain.line()) != "active":
            burst.append(line.split(" ")[1])
        assert burst == [
            f"heater:{name}"
            for name in (
                "status", "target", "setpoint", "ramp", "use_ramp", "_power", "_resistance", "value"
            )
        ]  # fmt: skip
        values = [line for _ in range(10) if "heater:value" in (line := await plain.line())]
        assert values
        changed = await plain.ask("change heater:ramp 30")
        assert changed.startswith("changed heater:ramp [30.0")
        assert (await plain.ask("deactivate")) == "inactive"
        await asyncio.sleep(0.1)
        assert (await plain.ask("ping")).startswith("pong")
        plain.writer.write(b"ping x\n")
        assert (await plain.line()).startswith("pong x")


async def test_ramp_is_what_it_says(lines):
    async with lines() as plain:
        await plain.ask("change heater:ramp 60")
        before_s = plain.clock.now_s()
        await plain.ask("change heater:target 498.15")
        after_s = plain.clock.now_s()
        await plain.clock.sleep(5.0)
        least_k = plain.clock.now_s() - after_s
        setpoint, _ = await plain.data("read heater:setpoint")
        assert least_k - 0.5 <= setpoint - 298.15 <= plain.clock.now_s() - before_s + 0.5
        assert (await plain.data("read heater:status"))[0] == [300, "ramping"]
        await plain.ask("do heater:stop")
        await plain.clock.sleep(0.5)
        held, _ = await plain.data("read heater:setpoint")
        assert held == pytest.approx((await plain.data("read heater:target"))[0])
        assert setpoint <= held <= 298.15 + plain.clock.now_s() - before_s
        assert held < 498
        await plain.ask("change heater:use_ramp false")
        await plain.ask("change heater:target 573.15")
        assert (await plain.data("read heater:setpoint"))[0] == pytest.approx(573.15)
        await plain.clock.sleep(0.5)
        assert plain.world.heater.temperature_c(plain.clock.now_ns()) > 290


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ("bogus", "error_bogus  [\"ProtocolError\""),
        ("read heater:bogus", "error_read heater:bogus [\"NoSuchParameter\""),
        ("read X:value", "error_read X:value [\"NoSuchModule\""),
        ("activate X", "error_activate X [\"NoSuchModule\""),
        ("change heater:value 3", "error_change heater:value [\"ReadOnly\""),
        ("change heater:stop 3", "error_change heater:stop [\"NoSuchParameter\""),
        ("change heater:target 1e4", "error_change heater:target [\"RangeError\""),
        ("change heater:target -1", "error_change heater:target [\"RangeError\""),
        ("change heater:target", "error_change heater:target [\"WrongType\""),
        ('change heater:target "hot"', "error_change heater:target [\"WrongType\""),
        ("change heater:target [", "error__  [\"ProtocolError\""),
        ("change heater:target NaN", "error__  [\"ProtocolError\""),
        ("change heater:use_ramp 1", "error_change heater:use_ramp [\"WrongType\""),
        ("do heater:start", "error_do heater:start [\"NoSuchCommand\""),
        (b"\xff\xfe\n", "error__  [\"ProtocolError\""),
        (b"x" * 200_000 + b"\n", "error__  [\"ProtocolError\""),
    ],
)  # fmt: skip
async def test_bad_requests_are_refused_and_change_nothing(lines, request_, answer):
    async with lines() as plain:
        assert (await plain.ask(request_)).startswith(answer)
        assert (await plain.data("read heater:target"))[0] == pytest.approx(298.15)


async def test_units_and_a_module_without_ramp(lines):
    async with lines(unit="degC", ramps=False) as plain:
        module = (await plain.data("describe"))["modules"]["heater"]
        assert module["accessibles"]["value"]["datainfo"]["unit"] == "degC"
        assert {"ramp", "use_ramp", "setpoint"}.isdisjoint(module["accessibles"])
        assert (await plain.data("read heater:value"))[0] == pytest.approx(25.0, abs=1)
        assert (await plain.ask("change heater:ramp 3")).startswith("error_change heater:ramp")


async def test_faults(lines):
    async with lines() as plain:
        plain.faults.switch(parse_fault("heater:error"))
        assert "HardwareError" in await plain.ask("read heater:value")
        await asyncio.sleep(0.1)
        plain.faults.clear()
        plain.faults.switch(parse_fault("heater:hang"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await plain.ask("ping 1")
        plain.faults.clear()
        assert (await plain.line()).startswith("pong 1")
        plain.faults.switch(parse_fault("heater:slow=300msx1"))
        started = time.monotonic()
        assert (await plain.ask("ping 2")).startswith("pong 2")
        assert time.monotonic() - started >= 0.3
        plain.faults.switch(parse_fault("heater:garbagex1"))
        plain.writer.write(b"ping 3\n")
        raw = b""
        async with asyncio.timeout(60):
            while b"pong 3" not in raw:
                raw += await plain.reader.read(4096)
        assert not raw.startswith(b"pong")
        plain.faults.clear()
        plain.faults.switch(parse_fault("heater:disconnectx1"))
        plain.writer.write(b"ping 4\n")
        async with asyncio.timeout(60):
            rest = await plain.reader.read()
        assert b"pong 4 [null" not in rest or not rest.endswith(b"\n")


async def test_a_client_that_does_not_read_is_left_behind(lines, monkeypatch):
    monkeypatch.setattr(server, "MAX_WAITING_BYTES", 2_000)
    async with lines() as plain:
        plain.faults.switch(parse_fault("heater:slow=100ms"))
        plain.writer.write(b"describe\n" * 40)
        async with asyncio.timeout(60):
            assert (await plain.reader.read()).count(b"\n") < 40
