"""Server of the SECoP wire (lines with JSON over TCP) in front of the simulated chip.

One module that can be driven to a temperature, in kelvin as sample environments have it. With
``use_ramp`` its setpoint follows ``ramp``; without, it steps. Times are those of the experiment
clock as UNIX seconds. Invalid requests get an ``error_`` answer; none ends the server.

Faults strike answers and updates alike, after the request was carried out, but for ``error``,
which refuses it, and puts the module's status to ERROR while it is on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ...protocols.config.faults import FaultName
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.core.lines import StrictLineDecoder
from ...protocols.wires import secop as wire
from ...protocols.wires.secop import SecopMessage
from ..world.chip import AMBIENT_C, MAX_TEMPERATURE_C, HeaterReading
from ..world.microscope import World
from .sockets import background
from .tcp import send_answer, serve_tcp
from .wire_faults import WireFaults

FAULTS: frozenset[FaultName] = frozenset(
    {
        "hang", "disconnect", "garbage", "short-frame", "slow", "error",
        "runaway", "stuck", "sensor-off", "bulge-jumps",
    }
)  # fmt: skip
DEFAULT_MODULE = "heater"
START_RAMP_PER_MIN = 600.0
MAX_RAMP_PER_MIN = 60_000.0
# More updates than this in a wall second, when time runs faster, would only be noise.
MAX_UPDATES_PER_S = 100.0
# A client that stops reading updates is disconnected at so many waiting bytes.
MAX_WAITING_BYTES = 1_000_000
_RECEIVE_BYTES = 65_536
_MAX_REQUEST_BYTES = 100_000


@asynccontextmanager
async def serve(
    world: World,
    clock: ExperimentClock,
    endpoint: str,
    faults: WireFaults | None = None,
    *,
    module: str = DEFAULT_MODULE,
    unit: str = "K",
    ramps: bool = True,
) -> AsyncIterator[str]:
    """Serve until the context ends.

    Parameters
    ----------
    world : World
        The world whose chip to serve.
    clock : ExperimentClock
        Time of samples and commands.
    endpoint : str
        Such as ``tcp://127.0.0.1:10767``; port 0 lets the system choose.
    faults : WireFaults, optional
        Switches of its faults.
    module : str
        Name of the module.
    unit : str
        Of its temperatures, K or degC.
    ramps : bool
        Whether the module has ``ramp``, ``use_ramp`` and ``setpoint``.

    Yields
    ------
    str
        The endpoint, with the port in use.

    Raises
    ------
    BadInput
        If the endpoint cannot be bound.
    """
    switches = WireFaults(FAULTS) if faults is None else faults
    heater = _HeaterModule(world, clock, unit, ramps)
    server = _SecopServer(heater, clock, switches, module)
    every_s = max(world.config.chip.sample_every_s, clock.speed / MAX_UPDATES_PER_S)
    publishing = server.publish_all(every_s)
    async with serve_tcp(endpoint, "heater.endpoint", server.converse, publishing) as found:
        yield found


class SecopError(Exception):
    """A request that is refused: class of error of the standard, and a text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class _HeaterModule:
    """The module: parameters by name, in its own unit."""

    def __init__(self, world: World, clock: ExperimentClock, unit: str, ramps: bool) -> None:
        self._world, self._clock, self.unit, self.ramps = world, clock, unit, ramps
        self._zero = wire.zero_c(unit)
        self._ramp_per_min = START_RAMP_PER_MIN
        self._use_ramp = ramps
        self._target_c = AMBIENT_C
        self.trouble = ""

    def values(self) -> dict[str, Any]:
        """Every parameter now."""
        reading = self._world.heater.reading(self._clock.now_ns())
        values = {
            "status": self._status(reading),
            "target": self._target_c + self._zero,
            "setpoint": reading.setpoint_c + self._zero,
            "ramp": self._ramp_per_min,
            "use_ramp": self._use_ramp,
            "_power": reading.power_w,
            "_resistance": reading.resistance_ohm,
            "value": reading.temperature_c + self._zero,  # with all the others known
        }
        return values if self.ramps else {k: v for k, v in values.items() if k not in _RAMPING}

    def describe(self) -> dict[str, Any]:
        bounds = {"min": AMBIENT_C - 50.0 + self._zero, "max": MAX_TEMPERATURE_C + self._zero}
        temperature = {"type": "double", "unit": self.unit}
        codes = {"IDLE": wire.IDLE, "WARN": wire.WARN, "BUSY": wire.BUSY, "ERROR": wire.ERROR}
        status = [{"type": "enum", "members": codes}, {"type": "string"}]
        ramp = {"type": "double", "unit": "$/min", "min": 0.0, "max": MAX_RAMP_PER_MIN}
        accessibles = {
            "value": _parameter("temperature of the chip", temperature),
            "status": _parameter("what it does", {"type": "tuple", "members": status}),
            "target": _parameter("where it is to go", {**temperature, **bounds}, False),
            "setpoint": _parameter("where it should be now", {"type": "double", "unit": "$"}),
            "ramp": _parameter("speed of the setpoint", ramp, False),
            "use_ramp": _parameter("whether the setpoint ramps", {"type": "bool"}, False),
            "_power": _parameter("heater power", {"type": "double", "unit": "W"}),
            "_resistance": _parameter("of the heater", {"type": "double", "unit": "Ohm"}),
            "stop": _parameter("stay at the setpoint reached", {"type": "command"}),
        }
        if not self.ramps:
            accessibles = {k: v for k, v in accessibles.items() if k not in _RAMPING}
        return {
            "accessibles": accessibles,
            "description": "simulated MEMS heater",
            "interface_classes": ["Drivable"],
            "implementation": "pyrotome.simulators.servers.secop",
        }

    def change(self, name: str, value: object) -> None:
        described = self.describe()["accessibles"].get(name)
        if described is None or described["datainfo"]["type"] == "command":
            raise SecopError("NoSuchParameter", f"the module has no parameter '{name[:100]}'")
        if described["readonly"]:
            raise SecopError("ReadOnly", f"parameter '{name}' can not be changed remotely")
        if name == "use_ramp":
            if not isinstance(value, bool):
                raise SecopError("WrongType", f"{str(value)[:60]} is neither true nor false")
            self._use_ramp = value
            return
        info = described["datainfo"]
        try:
            number = wire.parse_number(value, name)
        except BadMessage as error:
            raise SecopError("WrongType", str(error)) from None
        if not info["min"] <= number <= info["max"]:
            bounds = f"{info['min']:g} and {info['max']:g}"
            raise SecopError("RangeError", f"{number:g} must be between {bounds}")
        if name == "ramp":
            self._ramp_per_min = number
        else:
            self._go_to(number - self._zero)

    def _go_to(self, target_c: float) -> None:
        now_ns = self._clock.now_ns()
        setpoint_c = self._world.heater.reading(now_ns).setpoint_c
        ramp_s = 0.0
        if self._use_ramp and self._ramp_per_min > 0:
            ramp_s = abs(target_c - setpoint_c) / self._ramp_per_min * 60.0
        try:
            self._world.heater.go_to(now_ns, target_c, ramp_s)
        except ValueError as error:
            raise SecopError("RangeError", str(error)) from None
        self._target_c = target_c

    def stop(self) -> None:
        now_ns = self._clock.now_ns()
        self._world.heater.hold(now_ns)
        self._target_c = self._world.heater.reading(now_ns).setpoint_c

    def _status(self, reading: HeaterReading) -> list[Any]:
        if self.trouble:
            return [wire.ERROR, self.trouble]
        if reading.setpoint_c != self._target_c:
            return [wire.BUSY, "ramping"]
        if self._world.heater.is_busy(reading.t_ns):
            return [wire.BUSY, "settling"]
        return [wire.IDLE, "at target"]


_RAMPING = frozenset({"ramp", "use_ramp", "setpoint"})


def _parameter(text: str, info: dict[str, Any], readonly: bool = True) -> dict[str, Any]:
    described: dict[str, Any] = {"description": text, "datainfo": info}
    return described if info["type"] == "command" else {**described, "readonly": readonly}


class _Client:
    """One connection: whether it wants updates, and what waits to be sent to it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.active = False
        self.waiting: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self.waiting_bytes = 0

    def send(self, raw: bytes, update: bool = False) -> None:
        self.waiting.put_nowait((raw, update))
        self.waiting_bytes += len(raw)

    async def send_all(self, faults: WireFaults) -> None:
        """Send what waits, until the connection is to end."""
        while self.waiting_bytes <= MAX_WAITING_BYTES:
            raw, update = await self.waiting.get()
            self.waiting_bytes -= len(raw)
            if not await send_answer(self.connection, raw, faults, late=not update):
                break
        self.connection.shutdown(socket.SHUT_RDWR)


class _SecopServer:
    def __init__(
        self, heater: _HeaterModule, clock: ExperimentClock, faults: WireFaults, module: str
    ) -> None:
        self._heater, self._clock, self._faults, self._module = heater, clock, faults, module
        self._clients: set[_Client] = set()
        self._handlers: dict[str, Callable[[_Client, SecopMessage], SecopMessage]] = {
            "describe": self._describe,
            "activate": self._activate,
            "deactivate": self._deactivate,
            "read": self._read,
            "change": self._change,
            "do": self._do,
            "ping": lambda _, m: SecopMessage("pong", m.specifier, self._reading(None)),
        }

    async def converse(self, connection: socket.socket) -> None:
        """Answer the requests of one client until it leaves."""
        loop = asyncio.get_running_loop()
        client = _Client(connection)
        decoder = StrictLineDecoder(_MAX_REQUEST_BYTES)
        self._clients.add(client)
        try:
            async with background(client.send_all(self._faults)):
                while received := await loop.sock_recv(connection, _RECEIVE_BYTES):
                    try:
                        lines = decoder.feed(received)
                    except BadMessage as error:
                        client.send(_error("_", "", "ProtocolError", str(error)))
                        continue
                    for line in lines:
                        client.send(self._answer(client, line))
        finally:
            self._clients.discard(client)

    async def publish_all(self, every_s: float) -> None:
        """Send what has changed to the clients that want updates."""
        before: dict[str, Any] = {}
        next_ns = self._clock.now_ns()
        while True:
            await self._clock.sleep_until_ns(next_ns)
            self._heater.trouble = "a simulated fault" if self._faults.is_on("error") else ""
            values = self._heater.values()
            for name, value in values.items():
                if value != before.get(name) or name == "value":
                    self._publish(name, value)
            before = values
            period_ns = max(1, int(every_s * 1e9))
            next_ns += period_ns * max(1, -(-(self._clock.now_ns() - next_ns) // period_ns))

    def _publish(self, name: str, value: Any) -> None:
        raw = wire.encode_message(self._update(name, value))
        for client in self._clients:
            if client.active and not self._faults.is_on("hang"):
                client.send(raw, update=True)

    def _update(self, name: str, value: Any) -> SecopMessage:
        return SecopMessage(wire.UPDATE, f"{self._module}:{name}", self._reading(value))

    def _reading(self, value: Any) -> list[Any]:
        return wire.encode_reading(value, self._clock.now_ns() * 1e-9)

    def _answer(self, client: _Client, line: bytes) -> bytes:
        if line.strip() == wire.IDENTIFY.encode():
            client.active = False
            return wire.IDENTITY.encode() + b"\n"
        message = SecopMessage("_")
        try:
            message = wire.parse_message(line)
            handler = self._handlers.get(message.action)
            if handler is None:
                raise SecopError("ProtocolError", f"unhandled message '{message.action[:100]}'")
            if self._faults.is_on("error") and message.action in {"read", "change", "do"}:
                self._faults.strikes("error")
                raise SecopError("HardwareError", "a simulated fault")
            return wire.encode_message(handler(client, message))
        except BadMessage as error:
            return _error(message.action, message.specifier, "ProtocolError", str(error))
        except SecopError as error:
            return _error(message.action, message.specifier, error.name, str(error))

    def _describe(self, _: _Client, message: SecopMessage) -> SecopMessage:
        body = {
            "equipment_id": "pyrotome.simulator",
            "firmware": "pyrotome simulator",
            "description": "a simulated heating holder",
            "modules": {self._module: self._heater.describe()},
        }
        return SecopMessage("describing", message.specifier or ".", body)

    def _activate(self, client: _Client, message: SecopMessage) -> SecopMessage:
        if message.specifier and message.specifier.partition(":")[0] != self._module:
            raise SecopError("NoSuchModule", f"module '{message.specifier[:100]}' does not exist")
        client.active = True
        for name, value in self._heater.values().items():
            client.send(wire.encode_message(self._update(name, value)), update=True)
        return SecopMessage("active", message.specifier)

    def _deactivate(self, client: _Client, message: SecopMessage) -> SecopMessage:
        client.active = False
        return SecopMessage("inactive", message.specifier)

    def _read(self, _: _Client, message: SecopMessage) -> SecopMessage:
        name, value = self._parameter_of(message, "value"), None
        values = self._heater.values()
        if name not in values:
            raise SecopError("NoSuchParameter", f"the module has no parameter '{name[:100]}'")
        value = values[name]
        return SecopMessage("reply", message.specifier, self._reading(value))

    def _change(self, _: _Client, message: SecopMessage) -> SecopMessage:
        name = self._parameter_of(message, "target")
        self._heater.change(name, message.data)
        value = self._heater.values()[name]
        self._publish(name, value)
        return SecopMessage("changed", message.specifier, self._reading(value))

    def _do(self, _: _Client, message: SecopMessage) -> SecopMessage:
        if self._parameter_of(message, "") != "stop":
            raise SecopError("NoSuchCommand", f"no command '{message.specifier[:100]}'")
        self._heater.stop()
        return SecopMessage("done", message.specifier, self._reading(None))

    def _parameter_of(self, message: SecopMessage, default: str) -> str:
        module, _, name = message.specifier.partition(":")
        if module != self._module:
            raise SecopError("NoSuchModule", f"module '{module[:100]}' does not exist")
        return name or default


def _error(action: str, specifier: str, name: str, text: str) -> bytes:
    # A word of noise must not be answered with noise.
    known = action if action.isascii() and action.isprintable() else "_"
    return wire.encode_message(
        SecopMessage(wire.ERROR_PREFIX + known[:100], specifier[:100], [name, text, {}])
    )
