"""The Keithley wires as their clients see them: our own bytes, and pymeasure's drivers."""

import asyncio
import contextlib
import os
import time
import warnings

import pytest
import serial

from pyrotome.protocols.config.faults import parse_fault
from pyrotome.protocols.config.rig import Rig, simulated_rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.protocols.wires.scpi import parse_numbers
from pyrotome.simulators.servers.source_meter import LEAD_OHM
from pyrotome.simulators.simulation import running
from pyrotome.simulators.world.chip import resistance_ohm

TCP, SERIAL = "keithley-2450", "keithley-2400"


@contextlib.asynccontextmanager
async def simulated(driver, endpoint=None, speed=1.0, **options):
    rig = simulated_rig().model_dump(by_alias=True)
    endpoint = endpoint or {TCP: "tcp://127.0.0.1:0", SERIAL: "serial://auto"}[driver]
    rig["heater"] = {"driver": driver, "endpoint": endpoint, "options": options}
    rig["simulator"] = {"specimen": {"kind": "cu-sintering", "particles": 2}}
    clock = ExperimentClock(speed)
    config = SimulatorConfig(rig=Rig.model_validate(rig), clock=ClockConfig.of(clock))
    async with running(config) as simulation:
        yield simulation, simulation.devices["heater"]["endpoint"]


class Client:
    """Lines to one of the wires."""

    def __init__(self, reader, writer, end):
        self.reader, self.writer, self.end = reader, writer, end

    def say(self, line):
        self.writer.write(line.encode() + self.end)

    async def ask(self, line, timeout_s=60.0):
        self.say(line)
        async with asyncio.timeout(timeout_s):
            return (await self.reader.readuntil(self.end)).decode().strip()

    async def carry_out(self, line):
        """Send a line and wait until it has been carried out."""
        self.say(line)
        assert await self.ask("*OPC?") == "1"

    async def numbers(self, line):
        return parse_numbers(await self.ask(line))

    async def errors(self):
        found = []
        while not (entry := await self.ask(":SYST:ERR?")).startswith("0,"):
            found.append(entry)
        return found


@contextlib.asynccontextmanager
async def client(driver, **options):
    async with simulated(driver, **options) as (simulation, endpoint):
        if driver == TCP:
            host, port = endpoint.removeprefix("tcp://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            yield Client(reader, writer, b"\n"), simulation
            writer.close()
            await writer.wait_closed()
        else:
            with serial.Serial(endpoint.removeprefix("serial://"), 9600, timeout=0) as port:
                reader = asyncio.StreamReader()
                protocol = asyncio.StreamReaderProtocol(reader)
                loop = asyncio.get_running_loop()
                copy = os.fdopen(os.dup(port.fileno()), "rb", buffering=0)
                transport, _ = await loop.connect_read_pipe(lambda: protocol, copy)
                yield Client(reader, port, b"\r"), simulation
                transport.close()
                await asyncio.sleep(0)


HEAT_2450 = (
    ':SOUR:FUNC CURR;:SENS:FUNC "VOLT";:SENS:VOLT:RSEN 1;:SOUR:CURR:VLIM 10;'
    ":SOUR:CURR 0.005;:OUTP ON"
)
HEAT_2400 = (
    ":SYST:RSEN ON;:SOUR:FUNC CURR;:SENS:FUNC 'VOLT','CURR';:SENS:VOLT:PROT 10;:SOUR:CURR 5e-3;"
    ":FORM:ELEM VOLT,CURR;:OUTP ON"
)


def true_c(simulation):
    return simulation.world.heater.temperature_c(simulation.clock.now_ns())


@pytest.mark.parametrize(("driver", "heat"), [(TCP, HEAT_2450), (SERIAL, HEAT_2400)])
async def test_a_current_heats_the_chip(driver, heat):
    async with client(driver, baud=57600) as (smu, simulation):
        assert "MODEL " + driver[-4:] in await smu.ask("*IDN?")
        await smu.carry_out(heat)
        await asyncio.sleep(0.5)
        hot_c = true_c(simulation)
        assert 130 < hot_c < 250
        question = ":READ? 'defbuffer1',READ,SOUR" if driver == TCP else ":READ?"
        volts, amps = await smu.numbers(question)
        assert amps == pytest.approx(5e-3, rel=1e-4)
        assert volts / amps == pytest.approx(resistance_ohm(hot_c), rel=1e-3)
        await smu.carry_out(":OUTP OFF")
        await asyncio.sleep(0.3)
        assert true_c(simulation) < 26
        assert await smu.errors() == []


async def test_the_2400_answers_in_its_order_and_form():
    async with client(SERIAL, baud=57600) as (smu, _):
        smu.say(":SOURCE:FUNCTION CURR;:SOURCE:CURRENT 0.001;:SYSTEM:RSENSE 1;:OUTPUT 1")
        smu.say(":FORMAT:ELEMENTS STATUS, TIME, CURRENT, VOLTAGE, RESISTANCE")
        smu.say(":SENSE:FUNCTION:ALL")
        raw = await smu.ask(":READ?")
        assert len(raw) == 5 * 13 + 4
        volts, amps, ohms, _, status = parse_numbers(raw)
        assert volts / amps == pytest.approx(ohms, rel=1e-5)
        assert status == 1 << 22
        # Two wires measure the leads too.
        smu.say(":SYST:RSEN 0")
        more = await smu.numbers(":READ?")
        assert more[2] - ohms == pytest.approx(LEAD_OHM, abs=0.5)
        assert more[4] == 0
        assert await smu.ask(":sour:func?;:SOUR:CURR?;CURR:RANG?;:outp?") == (
            "CURR;1.000000E-03;1.000000E-03;1"
        )


async def test_compliance_holds_the_voltage():
    async with client(TCP) as (smu, simulation):
        await smu.carry_out(HEAT_2450.replace("VLIM 10", "VLIM 0.5"))
        await asyncio.sleep(0.3)
        current, volts = await smu.numbers(":READ? 'defbuffer1',SOUR,READ")
        assert volts == pytest.approx(0.5, rel=1e-3)
        assert current < 0.004
        assert await smu.ask(":SOUR:CURR:VLIM:TRIP?") == "1"
        await smu.carry_out(":SOUR:CURR:VLIM 10")
        await asyncio.sleep(0.3)
        assert await smu.ask(":SOUR:CURR:VLIM:TRIP?") == "0"
        simulation.world.heater.break_wire(simulation.clock.now_ns())
        current, volts = await smu.numbers(":READ? 'defbuffer1',SOUR,READ")
        assert abs(current) < 1e-6
        assert volts == pytest.approx(10.0, rel=1e-3)


async def test_a_voltage_heats_too():
    async with client(TCP) as (smu, simulation):
        smu.say(":SOUR:FUNC VOLT;:SENS:FUNC 'CURR';:SENS:CURR:RSEN 1;:SOUR:VOLT:ILIM 0.01")
        await smu.carry_out(":SOUR:VOLT 1.5;:OUTP 1")
        await asyncio.sleep(0.4)
        (amps,) = await smu.numbers(":READ?")
        assert 1.5 / amps == pytest.approx(resistance_ohm(true_c(simulation)), rel=1e-3)
        assert true_c(simulation) > 200


async def test_what_is_refused_is_not_answered_and_stands_in_the_queue():
    async with client(TCP) as (smu, simulation):
        for line in (":READ?", ":SOUR:COLOUR 1", "1;2", ":SOUR:CURR x", ":SOUR:CURR",
                     ":SOUR:CURR:RANG 0.001;:SOUR:CURR 0.1", ":SOUR:CURR 7",
                     ":READ? 'defbuffer1',SMELL", ":SENS:VOLT:NPLC 100"):  # fmt: skip
            smu.say(line)
        with pytest.raises(TimeoutError):
            await smu.ask("", 0.3)
        assert [entry.partition(",")[0] for entry in await smu.errors()] == [
            "+803", "-113", "-113", "-104", "-109", "-222", "-222", "+803", "-222",
        ]  # fmt: skip
        for _ in range(30):
            smu.say(":NONSENSE")
        errors = await smu.errors()
        assert len(errors) == 10
        assert errors[-1] == '-350,"Queue overflow"'
        assert true_c(simulation) == pytest.approx(25.0)


async def test_integration_takes_its_time_and_quiets_the_noise():
    async with client(TCP) as (smu, _):
        smu.say(HEAT_2450.replace("0.005", "0.0001"))
        spread, fastest_s = {}, {}
        for nplc in (0.05, 5.0):
            smu.say(f":SENS:VOLT:NPLC {nplc}")
            await smu.ask(":READ?")
            values, fastest_s[nplc] = [], float("inf")
            for _ in range(8):
                started = time.monotonic()
                values.append((await smu.numbers(":READ?"))[0])
                fastest_s[nplc] = min(fastest_s[nplc], time.monotonic() - started)
            spread[nplc] = max(values) - min(values)
        assert fastest_s[5.0] > 0.2  # two functions of 0.1 s
        assert fastest_s[0.05] < 0.2
        assert spread[5.0] < spread[0.05]


async def test_bytes_take_the_time_of_the_baud_rate():
    fastest_s = {}
    for baud in (9600, 57600):
        async with client(SERIAL, baud=baud) as (smu, _):
            smu.say("*RST;" + HEAT_2400 + ";:SENS:VOLT:NPLC 0.01")
            await smu.ask(":READ?")
            took_s = []
            for _ in range(10):
                started = time.monotonic()
                raw = await smu.ask(":SOUR:CURR 5.0000E-03;:READ?")
                took_s.append(time.monotonic() - started)
            wire_s = (29 + len(raw) + 1) * 10 / baud
            assert sum(took_s) / 10 > 0.98 * wire_s
            fastest_s[baud] = min(took_s)
    assert fastest_s[57600] < fastest_s[9600]


async def test_clients_come_and_go_on_the_terminal():
    async with simulated(SERIAL) as (_, endpoint):
        path = endpoint.removeprefix("serial://")

        def identify():
            with serial.Serial(path, 9600, timeout=60) as port:
                port.write(b"*IDN?\r")
                return port.read_until(b"\r")

        for _ in range(3):
            assert b"MODEL 2400" in await asyncio.to_thread(identify)
    with pytest.raises(serial.SerialException):
        await asyncio.to_thread(identify)


async def test_terminal_at_a_path(tmp_path):
    path = tmp_path / "smu"
    async with simulated(SERIAL, f"serial://{path}") as (_, endpoint):
        assert endpoint == f"serial://{path}"
        assert path.is_char_device()
        with pytest.raises(BadInput, match=r"cannot put a terminal at .*exists"):
            async with simulated(SERIAL, f"serial://{path}"):
                pass
    assert not path.exists()


@pytest.mark.parametrize(
    ("endpoint", "baud", "message"),
    [("serial://auto", 12345, "heater.options.baud: 12345"), ("tcp://h:1", 9600, "serial://auto")],
)
async def test_terminals_that_cannot_be_had(endpoint, baud, message):
    with pytest.raises(BadInput, match=message):
        async with simulated(SERIAL, endpoint, baud=baud):
            pass


async def test_the_chip_is_one_with_that_of_the_other_wire():
    async with client(TCP) as (smu, simulation):
        world, clock = simulation.world, simulation.clock
        world.heater.go_to(clock.now_ns(), 300.0)
        await asyncio.sleep(0.3)
        assert true_c(simulation) > 290  # whatever the instrument is set to with its output off
        await smu.carry_out(HEAT_2450)
        await asyncio.sleep(0.5)
        assert true_c(simulation) < 250
        assert world.heater.reading(clock.now_ns()).current_a == pytest.approx(0.005, rel=0.01)
        world.heater.go_to(clock.now_ns(), 300.0)
        await asyncio.sleep(0.3)
        assert true_c(simulation) > 290


# Faults.


@pytest.mark.parametrize("driver", [TCP, SERIAL])
async def test_faults(driver):
    heat = HEAT_2450 if driver == TCP else HEAT_2400
    async with client(driver, baud=57600) as (smu, simulation):

        def switch(text):
            simulation.switch(parse_fault(f"heater:{text}"))

        smu.say(heat)
        good = await smu.ask(":READ?")
        switch("short-framex1")
        with pytest.raises(TimeoutError):
            await smu.ask(":READ?", 0.4)
        await smu.reader.read(100)  # what came of it
        switch("garbagex1")
        smu.say("*OPC?")
        async with asyncio.timeout(60):
            raw = await smu.reader.readuntil(b":1" + smu.end)
        assert len(raw) > 30
        switch("errorx1")
        with pytest.raises(TimeoutError):
            await smu.ask(":READ?", 0.3)
        assert await smu.errors() == ['-200,"Execution error"']
        switch("slow=500 msx1")
        started = time.monotonic()
        await smu.ask(":READ?")
        assert time.monotonic() - started > 0.49
        switch("hang")
        with pytest.raises(TimeoutError):
            await smu.ask("*OPC?", 0.3)
        switch("none")
        async with asyncio.timeout(60):
            assert await smu.reader.readuntil(smu.end) == b"1" + smu.end
        assert len(await smu.ask(":READ?")) == len(good)
        if driver == TCP:
            switch("disconnectx1")
            smu.say("*IDN?")
            with pytest.raises(asyncio.IncompleteReadError):
                await smu.reader.readuntil(smu.end)
        else:
            with pytest.raises(BadInput, match="cannot have it"):
                switch("disconnect")


# pymeasure's drivers, which are not ours: heat to 300 degC by current.

TARGET_C = 300.0


def drive_to_target(set_current, read_ohm):
    """A person at the keyboard: raise the current until the resistance is that of 300 degC."""
    low, high = 0.001, 0.009
    for _ in range(12):
        current = 0.5 * (low + high)
        set_current(current)
        time.sleep(0.25)
        low, high = (current, high) if read_ohm() < resistance_ohm(TARGET_C) else (low, current)
    return current


def with_pymeasure_2450(endpoint):
    keithley = pytest.importorskip("pymeasure.instruments.keithley")
    address = endpoint.removeprefix("tcp://").replace(":", "::")
    smu = keithley.Keithley2450(
        f"TCPIP::{address}::SOCKET",
        visa_library="@py",
        read_termination="\n",
        write_termination="\n",
    )
    try:
        smu.reset()
        smu.apply_current(current_range=0.01, compliance_voltage=10)
        smu.wires = 4
        smu.measure_resistance(nplc=0.5, auto_range=True)
        smu.source_current = 0.001
        smu.enable_source()
        drive_to_target(lambda amps: setattr(smu, "source_current", amps), lambda: smu.resistance)
        found = smu.resistance, smu.source_enabled, smu.wires, smu.check_errors()
        heated = yield found
        smu.shutdown()
        yield smu.source_enabled, heated
    finally:
        smu.adapter.close()


def with_pymeasure_2400(endpoint):
    keithley = pytest.importorskip("pymeasure.instruments.keithley")
    smu = keithley.Keithley2400(
        f"ASRL{endpoint.removeprefix('serial://')}::INSTR",
        visa_library="@py",
        read_termination="\r",
        write_termination="\r",
        baud_rate=57600,
    )
    try:
        smu.reset()
        smu.reset_data_format()
        smu.source_mode = "current"
        smu.source_current_range = 0.01
        smu.compliance_voltage = 10
        smu.wires = 4
        smu.resistance_mode_auto_enabled = False
        smu.source_current = 0.001
        smu.enable_source()
        drive_to_target(lambda amps: setattr(smu, "source_current", amps), lambda: smu.resistance)
        found = smu.resistance, smu.source_enabled, smu.wires, smu.check_errors()
        heated = yield found
        smu.shutdown()
        yield smu.source_enabled, heated
    finally:
        smu.adapter.close()


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("driver", "session"), [(TCP, with_pymeasure_2450), (SERIAL, with_pymeasure_2400)]
)
async def test_pymeasure_heats_the_chip_to_300_degrees(driver, session):
    pytest.importorskip("pymeasure")
    pytest.importorskip("pyvisa_py")
    async with simulated(driver, baud=57600) as (simulation, endpoint):
        steps = session(endpoint)
        with warnings.catch_warnings():
            resistance, on, wires, errors = await asyncio.to_thread(next, steps)
            assert true_c(simulation) == pytest.approx(TARGET_C, abs=5.0)
            assert resistance == pytest.approx(resistance_ohm(true_c(simulation)), rel=2e-3)
            assert (on, wires, errors) == (True, 4, [])
            on, _ = await asyncio.to_thread(next, steps)
            assert on is False
            await asyncio.sleep(0.2)
            assert true_c(simulation) < 26
            await asyncio.to_thread(steps.close)
