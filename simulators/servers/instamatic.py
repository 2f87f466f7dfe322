"""Server of the instamatic wire (calls as JSON over TCP) before the simulated stage and column.

Moving the stage returns at once when the call says not to wait. Otherwise no call is answered until
it has arrived, as by the original, which has one microscope and one queue. Positions beyond the
limits are refused; the original's simulated microscope accepts them. Pickle is not spoken. The beam
deflectors stop at their limits without a word, and what is read back tells.

Faults strike after the call was carried out, but for ``error``, which refuses it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

from ...protocols.config.faults import FaultName
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import instamatic as wire
from ...protocols.wires.instamatic import Call, Reply, StageCoordinates
from ..world.microscope import World
from .tcp import send_answer, serve_tcp
from .wire_faults import WireFaults

FAULTS: frozenset[FaultName] = frozenset(
    {
        "hang", "disconnect", "garbage", "short-frame", "slow", "error",
        "drift", "slip", "z-sticks", "xy-ignored", "drift-fast", "decoy",
        "unblank", "shift-clips", "shift-inverted", "shift-forgets", "focus-jumps",
    }
)  # fmt: skip
FUNCTION_MODE = "mag1"
MAGNIFICATIONS = tuple(
    int(step * 10**decade)
    for decade in range(4, 8)
    for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
)
_AXES = {"x": "x_nm", "y": "y_nm", "z": "z_nm", "a": "a_deg", "b": "b_deg"}
_WAIT_POLL_S = 0.01  # experiment seconds
_RECEIVE_BYTES = 65_536


@asynccontextmanager
async def serve(
    world: World, clock: ExperimentClock, endpoint: str, faults: WireFaults | None = None
) -> AsyncIterator[str]:
    """Serve until the context ends.

    Parameters
    ----------
    world : World
        The world whose stage and column to serve.
    clock : ExperimentClock
        Time of commands.
    endpoint : str
        Such as ``tcp://127.0.0.1:8088``; port 0 lets the system choose.
    faults : WireFaults, optional
        Switches of its faults.

    Yields
    ------
    str
        The endpoint, with the port in use.

    Raises
    ------
    BadInput
        If the endpoint cannot be bound.
    """
    server = _InstamaticServer(world, clock, WireFaults(FAULTS) if faults is None else faults)
    async with serve_tcp(endpoint, "stage.endpoint", server.converse) as found:
        yield found


class TEMValueError(ValueError):
    """A value that the microscope does not take, by the name that the original gives it."""


class _InstamaticServer:
    def __init__(self, world: World, clock: ExperimentClock, faults: WireFaults) -> None:
        self._world, self._clock, self._faults = world, clock, faults
        self._turn = asyncio.Lock()
        column, now = world.column.state, clock.now_ns
        self._attributes: dict[str, Any] = {wire.NAME: "simulate"}
        self._functions: dict[str, Callable[..., Any]] = {
            wire.GET_STAGE_POSITION: self._position,
            wire.IS_STAGE_MOVING: lambda: world.stage.is_moving(now()),
            wire.STOP_STAGE: self._stop,
            wire.GET_HT: lambda: round(column(now()).voltage_kv * 1e3),
            wire.IS_BEAM_BLANKED: lambda: column(now()).blanked,
            wire.SET_BEAM_BLANK: self._blank,
            wire.GET_SPOT_SIZE: lambda: column(now()).spot_size_index,
            wire.SET_SPOT_SIZE: self._set_spot_size,
            wire.GET_MAGNIFICATION: lambda: round(column(now()).magnification),
            wire.SET_MAGNIFICATION: self._magnify,
            wire.GET_MAGNIFICATION_RANGES: lambda: {FUNCTION_MODE: list(MAGNIFICATIONS)},
            wire.GET_FUNCTION_MODE: lambda: FUNCTION_MODE,
            wire.GET_BEAM_SHIFT: lambda: [
                round(units) + wire.SHIFT_MIDDLE for units in world.column.deflection(now())
            ],
            wire.SET_BEAM_SHIFT: self._deflect,
            **self._lenses(),
            "is_goniotool_available": lambda: False,
            "getScreenPosition": lambda: "up",
            "release_connection": lambda: None,
        }
        # Those that may wait for the stage.
        self._moves: dict[str, tuple[str, ...]] = {
            wire.SET_STAGE_POSITION: tuple(_AXES),
            "setStageXY": ("x", "y"),
            **{f"setStage{axis.upper()}": (axis,) for axis in _AXES},
        }

    def _lenses(self) -> dict[str, Callable[..., Any]]:
        """Image shifts, which move nothing in a scan, and the objective lens in steps."""
        column, now = self._world.column, self._clock.now_ns
        shifts = {1: [wire.SHIFT_MIDDLE] * 2, 2: [wire.SHIFT_MIDDLE] * 2}

        def get_shift(which: int) -> list[int]:
            return shifts[which]

        def set_shift(which: int, x: object, y: object) -> None:
            shifts[which] = [_steps(x), _steps(y)]

        def set_lens(lens: Literal["coarse", "fine"], value: object) -> None:
            column.set_objective(now(), lens, _steps(value))

        def get_lens(lens: str) -> int:
            return column.state(now()).optics.objective[lens]

        return {
            **{f"getImageShift{k}": partial(get_shift, k) for k in shifts},
            **{f"setImageShift{k}": partial(set_shift, k) for k in shifts},
            "getObjectiveLenseCoarse": partial(get_lens, "coarse"),
            "setObjectiveLenseCoarse": partial(set_lens, "coarse"),
            "getObjectiveLenseFine": partial(get_lens, "fine"),
            "setObjectiveLenseFine": partial(set_lens, "fine"),
        }

    async def converse(self, connection: socket.socket) -> None:
        """Answer the calls of one client until it leaves, or sends something else."""
        loop = asyncio.get_running_loop()
        decoder = wire.JsonDecoder(replies=False)
        while received := await loop.sock_recv(connection, _RECEIVE_BYTES):
            try:
                calls = [wire.parse_call(value) for value in decoder.feed(received)]
            except BadMessage:
                return  # the original's thread dies of it, and hangs up
            for call in calls:
                async with self._turn:
                    reply = await self._answer(call)
                if not await send_answer(connection, wire.encode_reply(reply), self._faults):
                    return

    async def _answer(self, call: Call) -> Reply:
        if self._faults.strikes("error"):
            return _failed("TEMCommunicationError", "a simulated fault")
        try:
            return Reply(wire.OK, await self._evaluate(call))
        except (TypeError, AttributeError) as error:
            return _failed(type(error).__name__, str(error))
        except ValueError as error:  # of the codec and the world among them
            return _failed(TEMValueError.__name__, str(error))

    async def _evaluate(self, call: Call) -> Any:
        if call.function in self._attributes:
            return self._attributes[call.function]
        if call.function in self._moves:
            return await self._move(call)
        if call.function == "waitForStage":
            return await self._wait()
        function = self._functions.get(call.function)
        if function is None:
            raise AttributeError(f"the microscope has no attribute {call.function[:100]!r}")
        return function(*call.args, **call.kwargs)

    async def _move(self, call: Call) -> None:
        axes = self._moves[call.function]
        words = {axes[0] if name == "value" else name: v for name, v in call.kwargs.items()}
        wait = words.pop("wait", True)
        words |= dict(zip((*axes, "wait")[: len(call.args)], call.args, strict=True))
        wait = words.pop("wait", wait)
        words.pop("speed", None)
        if unknown := words.keys() - set(axes):
            raise TypeError(f"{call.function}() got an unexpected argument {sorted(unknown)[0]!r}")
        targets = {
            _AXES[axis]: wire.parse_number(value, axis)
            for axis, value in words.items()
            if value is not None
        }
        self._world.stage.move(self._clock.now_ns(), targets)
        if wire.parse_flag(wait, "wait"):
            await self._wait()

    async def _wait(self) -> None:
        while self._world.stage.is_moving(self._clock.now_ns()):
            await self._clock.sleep(_WAIT_POLL_S)

    def _stop(self) -> None:
        now_ns = self._clock.now_ns()
        if self._world.stage.is_moving(now_ns):
            here = self._world.stage.readback(now_ns)
            limits = self._world.stage.limits()
            self._world.stage.move(
                now_ns,
                {axis: min(max(v, limits[axis][0]), limits[axis][1]) for axis, v in here.items()},
            )

    def _position(self) -> list[float]:
        here = self._world.stage.readback(self._clock.now_ns())
        return wire.position_to_wire(StageCoordinates(**here))

    def _blank(self, mode: object) -> None:
        self._world.column.set_blanked(self._clock.now_ns(), wire.parse_flag(mode, "mode"))

    def _deflect(self, x: object, y: object) -> None:
        """Set the deflectors; beyond their steps they stay at the last one and say nothing."""
        last = wire.SHIFT_STEPS - 1
        first, second = (min(max(_steps(value), 0), last) - wire.SHIFT_MIDDLE for value in (x, y))
        self._world.column.deflect(self._clock.now_ns(), (float(first), float(second)))

    def _set_spot_size(self, value: object) -> None:
        size = wire.parse_number(value, "spot size")
        if size != int(size):
            raise TEMValueError(f"spot size {size:g} is not a whole number")
        self._world.column.set_probe(self._clock.now_ns(), spot_size_index=int(size))

    def _magnify(self, value: object) -> None:
        if value not in MAGNIFICATIONS:
            raise TEMValueError(f"No such camera length or magnification: {value}")
        self._world.column.set_probe(
            self._clock.now_ns(), magnification=wire.parse_number(value, "magnification")
        )


def _steps(value: object) -> int:
    """Whole steps, as the original makes them of any number."""
    return int(wire.parse_number(value, "steps"))


def _failed(name: str, text: str) -> Reply:
    return Reply(wire.FAILED, [name, [text]])
