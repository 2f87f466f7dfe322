"""Server of the temscript wire (HTTP and JSON) in front of the simulated stage and column.

Setting the stage's position returns at once: the move takes its time, and the status says GOING.
Positions beyond the limits are refused; a beam shift beyond its limit is cut without a word, and
what is read back tells. Pickle is neither sent nor taken.

Faults strike after the request was carried out, but for ``error``, which refuses it. ``garbage``
is noise before the JSON, or before the status line of an answer that has none; ``short-frame``
is a body that ends early and yet has the length that it announces.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from ...protocols.config.faults import FaultName
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import temscript as wire
from ..world.microscope import World
from .sockets import serve_http
from .wire_faults import WireFaults

SIMULATED_VERSION = "2.1.0"
FAULTS: frozenset[FaultName] = frozenset(
    {
        "hang", "disconnect", "garbage", "short-frame", "wrong-length", "slow", "error",
        "drift", "slip", "z-sticks", "xy-ignored", "drift-fast", "decoy",
        "unblank", "valves", "vacuum",
        "shift-clips", "shift-inverted", "shift-forgets", "focus-jumps",
    }
)  # fmt: skip
_MISSING_BYTES = 64  # that wrong-length announces and does not send


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
        Such as ``http://127.0.0.1:8080``; port 0 lets the system choose.
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
    faults = WireFaults(FAULTS) if faults is None else faults
    server = _TemscriptServer(world, clock, faults)
    # Room for the refusal of a body that is too long to come from the handler, as on the wire.
    body_bytes = 4 * wire.MAX_BODY_BYTES
    async with serve_http(endpoint, "stage.endpoint", server.handle, body_bytes) as found:
        try:
            yield found
        finally:
            faults.clear()  # what hangs would keep its handler


class _UnknownEndpoint(Exception):
    pass


class _TemscriptServer:
    def __init__(self, world: World, clock: ExperimentClock, faults: WireFaults) -> None:
        self._world, self._clock, self._faults = world, clock, faults
        self._method = "GO"
        column, now = world.column.state, clock.now_ns
        self._get: dict[str, Callable[[], Any]] = {
            wire.FAMILY: lambda: "TITAN",
            wire.MICROSCOPE_ID: lambda: "pyrotome simulator",
            wire.VERSION: lambda: SIMULATED_VERSION,
            wire.VOLTAGE: lambda: column(now()).voltage_kv,
            wire.STAGE_HOLDER: lambda: "SINGLE_TILT",
            wire.STAGE_STATUS: self._status,
            wire.STAGE_LIMITS: lambda: wire.limits_to_wire(world.stage.limits()),
            wire.STAGE_POSITION: lambda: wire.target_to_wire(**world.stage.readback(now())),
            wire.BEAM_BLANKED: lambda: column(now()).blanked,
            wire.SPOT_SIZE_INDEX: lambda: column(now()).spot_size_index,
            wire.INTENSITY: lambda: column(now()).intensity,
            wire.STEM_MAGNIFICATION: lambda: column(now()).magnification,
            wire.STEM_ROTATION: lambda: math.radians(column(now()).optics.rotation_deg),
            wire.BEAM_SHIFT: lambda: wire.pair_to_wire(world.column.deflection(now())),
            wire.IMAGE_SHIFT: lambda: wire.pair_to_wire(column(now()).optics.image_shift),
            wire.PROBE_DEFOCUS: lambda: column(now()).optics.probe_defocus_nm * 1e-9,
            wire.DEFOCUS: lambda: column(now()).optics.defocus_nm * 1e-9,
            wire.CONVERGENCE_ANGLE: lambda: column(now()).config.convergence_mrad * 1e-3,
            "screen_current": self._screen_current_a,
            wire.COLUMN_VALVES_OPEN: lambda: column(now()).valves_open,
            wire.VACUUM: self._vacuum,
            "stem_available": lambda: True,
            "instrument_mode": lambda: "STEM",
        }
        self._put: dict[str, Callable[[Any], None]] = {
            wire.BEAM_BLANKED: lambda value: world.column.set_blanked(
                now(), wire.parse_flag(value, wire.BEAM_BLANKED)
            ),
            wire.SPOT_SIZE_INDEX: self._set_spot_size,
            wire.INTENSITY: lambda value: world.column.set_probe(
                now(), intensity=wire.parse_number(value, wire.INTENSITY)
            ),
            wire.STEM_MAGNIFICATION: lambda value: world.column.set_probe(
                now(), magnification=wire.parse_number(value, wire.STEM_MAGNIFICATION)
            ),
            wire.STEM_ROTATION: lambda value: world.column.set_optics(
                now(), rotation_deg=math.degrees(wire.parse_number(value, wire.STEM_ROTATION))
            ),
            wire.BEAM_SHIFT: lambda value: world.column.deflect(
                now(), wire.parse_pair_nm(value, wire.BEAM_SHIFT)
            ),
            wire.IMAGE_SHIFT: lambda value: world.column.set_optics(
                now(), image_shift=wire.parse_pair_nm(value, wire.IMAGE_SHIFT)
            ),
            wire.PROBE_DEFOCUS: lambda value: world.column.set_optics(
                now(), probe_defocus_nm=wire.parse_nm(value, wire.PROBE_DEFOCUS)
            ),
            wire.DEFOCUS: lambda value: world.column.set_optics(
                now(), defocus_nm=wire.parse_nm(value, wire.DEFOCUS)
            ),
        }

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request and close, as the original does: its client counts on that."""
        if self._faults.strikes("error"):
            response = _refuse(500, f"Error handling request {request.path}: instrument error")
        else:
            response = await self._respond(request)
        response.force_close()
        await self._faults.delay()
        return self._spoilt(request, response)

    def _spoilt(self, request: web.Request, response: web.Response) -> web.Response:
        faults, body = self._faults, response.body
        raw = body if isinstance(body, bytes) else b""
        if faults.strikes("disconnect"):
            whole = _answer(response, raw, len(raw))
            self._send_raw(request, whole[: len(whole) - (len(raw) + 1) // 2 - 1])
        elif faults.strikes("wrong-length"):
            self._send_raw(request, _answer(response, raw, len(raw) + _MISSING_BYTES))
        elif faults.strikes("short-frame"):
            short = _cut(raw)
            self._send_raw(request, _answer(response, short, len(short)))
        elif faults.strikes("garbage"):
            if raw:
                response.body = faults.noise() + raw
            else:
                self._send_raw(request, faults.noise())
        return response

    def _send_raw(self, request: web.Request, raw: bytes) -> None:
        """Write past the HTTP library, which would not let an answer be wrong, and hang up."""
        if request.transport is not None:
            request.transport.write(raw)
            request.transport.close()

    async def _respond(self, request: web.Request) -> web.Response:
        if wire.MIME_PICKLE in request.headers.get("Accept", ""):
            return _refuse(406, "pickle is not spoken here")
        try:
            name = request.path.removeprefix(wire.API)
            if not request.path.startswith(wire.API):
                raise _UnknownEndpoint
            if request.method == "GET":
                return self._answer(name, request)
            if request.method == "PUT":
                await self._set(name, request)
                return web.Response(status=204)
        except _UnknownEndpoint:
            return _refuse(404, f"Unknown endpoint: {request.path}")
        except (ValueError, web.HTTPRequestEntityTooLarge) as error:
            return _refuse(500, f"Error handling request {request.path}: {error}")
        return _refuse(501, f"Unsupported method {request.method}")

    def _answer(self, name: str, request: web.Request) -> web.Response:
        getter = self._get.get(name)
        if getter is None:
            raise _UnknownEndpoint
        response = web.Response(body=wire.encode_value(getter()), content_type=wire.MIME_JSON)
        if "gzip" in request.headers.get("Accept-Encoding", "") and len(response.body or b"") > 256:  # pyright: ignore[reportArgumentType]
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _set(self, name: str, request: web.Request) -> None:
        setter = self._put.get(name)
        if setter is None and name != wire.STAGE_POSITION:
            raise _UnknownEndpoint
        if (request.content_length or 0) > wire.MAX_BODY_BYTES:
            raise BadMessage("Too much content...")
        raw = await request.read()
        if len(raw) > wire.MAX_BODY_BYTES:
            raise BadMessage("Too much content...")
        value = wire.parse_value(raw)
        if setter is not None:
            setter(value)
        else:
            self._move(value, request.query.get("method", "GO"), request.query.get("speed"))

    def _move(self, value: object, method: str, speed: str | None) -> None:
        targets = wire.target_from_wire(value)
        if method == "GO":
            fraction = 1.0 if speed is None else float(speed)
            self._world.stage.move(self._clock.now_ns(), targets, fraction, "GO")
        elif method == "MOVE":
            if speed is not None:
                raise ValueError("speed is only for method GO")
            self._world.stage.move(self._clock.now_ns(), targets, method="MOVE")
        else:
            raise ValueError(f"unknown method {method!r}; there are GO and MOVE")
        self._method = method

    def _status(self) -> str:
        if not self._world.stage.is_moving(self._clock.now_ns()):
            return wire.READY
        return "GOING" if self._method == "GO" else "MOVING"

    def _vacuum(self) -> dict[str, Any]:
        column = self._world.column.state(self._clock.now_ns())
        return {
            "status": wire.VACUUM_READY if column.vacuum_ok else "BUSY",
            "column_valves_open": column.valves_open,
            "pvp_running": not column.vacuum_ok,
            "gauges(Pa)": {},
        }

    def _screen_current_a(self) -> float:
        column = self._world.column.state(self._clock.now_ns())
        return 0.0 if column.blanked else column.current_pa * 1e-12

    def _set_spot_size(self, value: object) -> None:
        index = wire.parse_number(value, wire.SPOT_SIZE_INDEX)
        if index != int(index):
            raise ValueError(f"spot size index {index:g} is not a whole number")
        self._world.column.set_probe(self._clock.now_ns(), spot_size_index=int(index))


def _answer(response: web.Response, raw: bytes, announced: int) -> bytes:
    head = (
        f"HTTP/1.1 {response.status} {response.reason}\r\n"
        f"Content-Type: {response.content_type}\r\nContent-Length: {announced}\r\n\r\n"
    )
    return head.encode("latin-1") + raw


def _cut(raw: bytes) -> bytes:
    """The beginning of a JSON text, short enough to be none by itself: 0.12 would be, of 0.125."""
    for length in range(len(raw) // 2, 0, -1):
        try:
            json.loads(raw[:length])
        except ValueError:
            return raw[:length]
    return b""


def _refuse(status: int, problem: str) -> web.Response:
    reason = "".join(c if c.isascii() and c.isprintable() else "?" for c in problem)[:200]
    return web.Response(status=status, reason=reason, text=reason)
