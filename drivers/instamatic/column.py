"""Stage and beam of a JEOL or Thermo Fisher microscope behind instamatic's TEM server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

from pydantic import BaseModel, Field

from ...protocols.config.recipe import BeamSettings
from ...protocols.config.rig import BeamRig, StageRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.wires import instamatic, temscript
from ...protocols.wires.instamatic import BadMessage, Call, Reply
from ..base import GRACE_S, DeviceLost, DeviceRefused, Identity, OutOfRange, StagePosition
from ..common.column_beam import ColumnBeam, ColumnOptions
from ..common.polled_stage import MovingStage
from ..links.errors import broken, no_answer, not_connected, reason
from ..links.tcp import address_of, end_tcp, open_tcp

T = TypeVar("T")


class _Connection:
    """One TCP connection to a TEM server: one call and its answer at a time.

    The original takes answers from one common box: with two connections at work it gives one the
    other's (observed, a fifth of the answers). So all drivers of this process share one, and
    a call that gets no answer ends it for all of them.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.endpoint = f"tcp://{address[0]}:{address[1]}"
        self.loop = asyncio.get_running_loop()
        self.users: set[object] = set()
        self._socket: Any = None
        self._decoder = instamatic.JsonDecoder(replies=True)
        self._owed = False  # the answer to a call that was cancelled
        self._lock = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    async def open(self, device: str, timeout_s: float) -> None:
        async with self._lock:
            if self._socket is None:
                self._socket = await open_tcp(device, "connect", self._address, timeout_s)
                self._decoder = instamatic.JsonDecoder(replies=True)
                self._owed = False

    def drop(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            end_tcp(sock)
            sock.close()

    async def close(self, user: object) -> None:
        """Leave the connection; the last one to do so closes it."""
        self.users.discard(user)
        if not self.users and self._socket is not None:
            end_tcp(self._socket)
            async with self._lock:  # whoever waits for an answer has seen the end by now
                self.drop()

    async def exchange(self, device: str, call: Call, timeout_s: float) -> Reply:
        request = f"call {call}"
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._lock.acquire()
        except TimeoutError:  # it waits for an answer to somebody else's call
            raise no_answer(device, request, self.endpoint, timeout_s) from None
        try:
            async with asyncio.timeout_at(deadline):
                return await self._in_turn(device, call, request)
        except TimeoutError:
            self.drop()
            raise no_answer(device, request, self.endpoint, timeout_s) from None
        except OSError as error:
            self.drop()
            raise broken(device, request, self.endpoint, reason(error)) from None
        except BadMessage as error:
            self.drop()
            raise DeviceRefused(
                device,
                request,
                f"{self.endpoint} sent an invalid reply: {error}",
                "Write tem_communication_protocol: 'json' in the settings.yaml of the TEM server",
            ) from None
        finally:
            self._lock.release()

    async def _in_turn(self, device: str, call: Call, request: str) -> Reply:
        if self._socket is None:
            raise not_connected(device, request)
        if self._owed:
            # A second request sent before would reach the server as one with the first.
            await self._reply()
            self._owed = False
        self._owed = True
        await asyncio.get_running_loop().sock_sendall(self._socket, instamatic.encode_call(call))
        reply = await self._reply()
        self._owed = False
        return reply

    async def _reply(self) -> Reply:
        loop = asyncio.get_running_loop()
        while True:
            received = await loop.sock_recv(self._socket, 65_536)
            if not received:
                raise ConnectionResetError("the server closed it")
            if values := self._decoder.feed(received):
                # Only one answer can be due: of several, earlier ones are what noise held.
                return instamatic.parse_reply(values[-1])


# By address, for all drivers of this process.
_connections: WeakValueDictionary[tuple[str, int], _Connection] = WeakValueDictionary()


def _connection_to(address: tuple[str, int]) -> _Connection:
    connection = _connections.get(address)
    if connection is None or connection.loop is not asyncio.get_running_loop():
        connection = _connections[address] = _Connection(address)
    return connection


class _Microscope:
    """What stage and beam share: calls of the microscope's functions, and values checked."""

    def __init__(self, device: str, endpoint: str, where: str) -> None:
        self.device, self.endpoint = device, endpoint
        self._address = address_of(endpoint, "tcp", where)
        self._connection: _Connection | None = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None and self._connection.is_open

    async def connect(self, timeout_s: float) -> Identity:
        await self.close()
        self._connection = connection = _connection_to(self._address)
        connection.users.add(self)
        deadline = time.monotonic() + timeout_s
        try:
            await connection.open(self.device, timeout_s)
            left_s = max(0.05, deadline - time.monotonic())
            name = await self.call(instamatic.NAME, timeout_s=left_s)
        except DeviceLost as error:
            await self.close()
            # A server that speaks pickle hangs up on JSON.
            raise DeviceLost(
                self.device,
                error.request,
                error.cause,
                "Check that instamatic's TEM server is running with "
                "tem_communication_protocol: 'json'",
            ) from None
        except BaseException:
            await self.close()
            raise
        return Identity("instamatic", str(name))

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(self)

    async def call(
        self, function: str, *args: Any, timeout_s: float = GRACE_S, **kwargs: Any
    ) -> Any:
        """Value that a function of the microscope returns.

        Raises
        ------
        DeviceRefused
            If it raises, or answers what is no reply.
        DeviceLost
            If no answer comes by the deadline.
        """
        call = Call(function, args, kwargs)
        if self._connection is None:
            raise not_connected(self.device, str(call))
        reply = await self._connection.exchange(self.device, call, timeout_s)
        if not reply.ok:
            raise DeviceRefused(
                self.device,
                str(call),
                f"{self.endpoint} answered {reply.describe()}",
                "See the window of instamatic's TEM server",
            )
        return reply.value

    async def read(self, function: str, parse: Callable[[Any, str], T]) -> T:
        """Return a value, or DeviceRefused where the function returns something else."""
        value = await self.call(function)
        try:
            return parse(value, function)
        except BadMessage as error:
            raise DeviceRefused(
                self.device,
                f"{function}()",
                f"{self.endpoint} sent an invalid value: {error}",
                "Check that the rig's endpoint names instamatic's TEM server",
            ) from None

    async def number(self, function: str) -> float:
        return await self.read(function, instamatic.parse_number)


class InstamaticStage(MovingStage):
    """The goniometer: tilt is its axis a. The wire tells no limits, so the rig's are all."""

    summary: ClassVar[str] = "JEOL or Thermo Fisher stage through instamatic's TEM server"

    def __init__(self, name: str, rig: StageRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self.Options.model_validate(rig.options)
        self._microscope = _Microscope(name, rig.endpoint, "stage.endpoint")

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Connect and ask for the name of the microscope."""
        identity = await self._microscope.connect(timeout_s)
        self._arrived_at_deg = None
        return identity

    async def disconnect(self) -> None:
        """Close the connection."""
        await self._microscope.close()

    async def tilt_limits_deg(self) -> tuple[float, float]:
        """The rig's limits: the wire tells none."""
        return self.rig.limits.tilt_deg

    async def position(self) -> StagePosition:
        """Read back; stamped halfway between question and answer."""
        sent_ns = self.clock.now_ns()
        at = await self._microscope.read(
            instamatic.GET_STAGE_POSITION, lambda value, _: instamatic.parse_position(value)
        )
        t_ns = (sent_ns + self.clock.now_ns()) // 2
        return StagePosition(t_ns, at.a_deg, at.x_nm, at.y_nm, at.z_nm)

    @property
    def _is_connected(self) -> bool:
        return self._microscope.is_open

    async def _command(self, tilt_deg: float, timeout_s: float) -> None:
        # Not to wait: the server answers nobody while it does, not even a stop.
        await self._microscope.call(
            instamatic.SET_STAGE_POSITION, a=tilt_deg, wait=False, timeout_s=timeout_s
        )

    async def _motion(self) -> str | None:
        moving = await self._microscope.read(instamatic.IS_STAGE_MOVING, instamatic.parse_flag)
        return "moving" if moving else None

    async def _halt(self, timeout_s: float) -> None:
        try:
            await self._microscope.call(instamatic.STOP_STAGE, timeout_s=timeout_s)
        except DeviceRefused:
            pass  # not every microscope has it: Thermo Fisher's raises, the simulated one does none
        else:
            if await self._motion() is None:
                return
        await super()._halt(timeout_s)


class InstamaticBeamOptions(ColumnOptions):
    """How this column's settings translate; measured on it.

    The wire has no probe current and no field of view: only spot sizes and the magnifications that
    the microscope has. A recipe gets the nearest of each, within `tolerance` as a fraction.
    """

    tolerance: float = Field(default=0.02, gt=0, lt=1)


class InstamaticBeam(ColumnBeam):
    """Blanker, spot size and magnification."""

    summary: ClassVar[str] = "JEOL or Thermo Fisher column through instamatic's TEM server"
    Options: ClassVar[type[BaseModel]] = InstamaticBeamOptions

    def __init__(self, name: str, rig: BeamRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        options = InstamaticBeamOptions.model_validate(rig.options)
        self.options, self._tolerance = options, options.tolerance
        self._microscope = _Microscope(name, rig.endpoint, "beam.endpoint")

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Connect and ask for the name of the microscope."""
        return await self._microscope.connect(timeout_s)

    async def disconnect(self) -> None:
        """Close the connection; the blanker stays as it is."""
        await self._microscope.close()

    async def prepare(self, settings: BeamSettings) -> None:
        """Blank, check the high tension, set spot size and magnification.

        Raises
        ------
        OutOfRange
            If the current is beyond the rig's limit, or no spot size or magnification is near
            enough to what the recipe asks for; nothing is set.
        DeviceRefused
            If the high tension is another one, or the column did not take a setting.
        """
        spot = self._spot_for(settings.current_pa)
        await self.blank()
        await self._refuse_other_voltage(settings)
        magnification = await self._magnification_for(settings)
        await self._set(instamatic.SET_SPOT_SIZE, instamatic.GET_SPOT_SIZE, spot)
        await self._set(instamatic.SET_MAGNIFICATION, instamatic.GET_MAGNIFICATION, magnification)

    async def current_pa(self) -> float:
        """Probe current that the column's spot size stands for."""
        return self.options.spot_currents_pa[await self._listed_spot()]

    async def is_blanked(self) -> bool:
        """Read back."""
        return await self._microscope.read(instamatic.IS_BEAM_BLANKED, instamatic.parse_flag)

    @property
    def _is_connected(self) -> bool:
        return self._microscope.is_open

    async def _set_blanked(self, blanked: bool) -> None:
        await self._microscope.call(instamatic.SET_BEAM_BLANK, blanked)

    async def _voltage_kv(self) -> float:
        return await self._microscope.number(instamatic.GET_HT) * 1e-3

    async def _spot_size(self) -> float:
        return await self._microscope.number(instamatic.GET_SPOT_SIZE)

    def _spot_for(self, current_pa: float) -> int:
        limit_pa, table = self.rig.limits.current_pa, self.options.spot_currents_pa
        nearest = min(table, key=lambda spot: abs(table[spot] - current_pa))
        if limit_pa is not None and current_pa > limit_pa:
            answered = f"the rig's limit is {limit_pa:g} pA"
        elif abs(table[nearest] - current_pa) > self._tolerance * current_pa:
            answered = f"the nearest is spot size {nearest} with {table[nearest]:g} pA"
        else:
            return nearest
        raise OutOfRange(
            self.name,
            f"set a probe current of {current_pa:g} pA",
            f"{answered}; nothing was sent",
            "Change the recipe's beam.current",
        )

    async def _magnification_for(self, settings: BeamSettings) -> int:
        field_nm = settings.pixel_nm * settings.frame[1]
        wanted = temscript.magnification_for(field_nm, self.options.display_width_m)
        try:
            mode = str(await self._microscope.call(instamatic.GET_FUNCTION_MODE))
            ranges = await self._microscope.read(
                instamatic.GET_MAGNIFICATION_RANGES,
                lambda value, _: instamatic.parse_magnifications(value),
            )
        except DeviceRefused:
            return round(wanted)  # Thermo Fisher's cannot tell them; reading back will tell
        steps = ranges.get(mode, ())
        if not steps:
            raise DeviceRefused(
                self.name,
                f"set a field of {field_nm:g} nm",
                f"in its mode {mode!r} the microscope names no magnifications",
                "Choose an imaging mode at the microscope",
            )
        nearest = min(steps, key=lambda step: abs(step - wanted))
        if abs(nearest - wanted) > self._tolerance * wanted:
            has_nm = temscript.field_of_view_nm(nearest, self.options.display_width_m)
            raise OutOfRange(
                self.name,
                f"set pixels of {settings.pixel_nm:g} nm",
                f"the nearest magnification in the mode {mode!r}, {nearest:g}, has "
                f"{has_nm / settings.frame[1]:.4g} nm",
                "Change the recipe's beam.pixel_size to that, or the mode at the microscope",
            )
        return round(nearest)

    async def _set(self, setter: str, getter: str, value: int) -> None:
        await self._microscope.call(setter, value)
        self._refuse_not_taken(setter, value, await self._microscope.number(getter), 0.0)
