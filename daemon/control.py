"""The control socket (ROUTER) of the daemon, and the client that the command line uses."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zmq

from ..drivers.base import DeviceError
from ..protocols.control import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_FAILED,
    MAX_REQUEST_BYTES,
    BadRequest,
    Reply,
    Simple,
    Submit,
    encode,
    parse_reply,
    parse_request,
)
from ..protocols.loading import BadInput, load_model
from ..protocols.recipe import Recipe
from .experiment import new_output
from .plan import make_plan
from .publisher import bind
from .service import Busy, Daemon

Handler = Callable[[Simple | Submit], Awaitable[dict[str, Any]]]


class ControlServer:
    """Answers control requests, each in a task of its own so that `safe` never waits in a queue.

    Parameters
    ----------
    daemon : Daemon
        Who is controlled.
    endpoint : str
        Where to bind.
    fall_back : bool
        Take any free port when that one is in use.
    accept_submit : bool
        Whether recipes may be submitted (`serve`), or one is already running (`run`).
    """

    def __init__(
        self, daemon: Daemon, endpoint: str, fall_back: bool = False, accept_submit: bool = True
    ) -> None:
        self._daemon, self._accept_submit = daemon, accept_submit
        self._socket = daemon.context.socket(zmq.ROUTER)
        self._socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self._socket.set(zmq.LINGER, 500)
        self.endpoint = bind(self._socket, endpoint, "streams.control", fall_back)
        self._answers: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._serve(), name="control")

    async def _serve(self) -> None:
        while True:
            envelope = await self._socket.recv_multipart()
            answer = asyncio.create_task(self._answer(envelope), name="control answer")
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)

    async def _answer(self, envelope: list[bytes]) -> None:
        # A REQ client puts an empty part between its identity and the body, a DEALER may not.
        *route, raw = envelope
        try:
            request = parse_request(raw)
        except BadRequest as error:
            reply = Reply(ok=False, code=EXIT_BAD_INPUT, error=f"not a request: {error}")
        else:
            reply = await self._carry_out(request)
        await self._socket.send_multipart([*route, encode(reply)])

    async def _carry_out(self, request: Simple | Submit) -> Reply:
        def refused(code: int, error: BaseException) -> Reply:
            return Reply(id=request.id, ok=False, code=code, error=str(error))

        try:
            if isinstance(request, Submit):
                data = self._submit(request)
            else:
                data = await self._simple(request)
        except (BadInput, Busy) as error:
            return refused(EXIT_BAD_INPUT, error)
        except DeviceError as error:
            return refused(EXIT_DEVICE, error)
        except Exception as error:
            return Reply(id=request.id, ok=False, code=EXIT_FAILED, error=f"unexpected: {error!r}")
        return Reply(id=request.id, ok=True, data=data)

    async def _simple(self, request: Simple) -> dict[str, Any]:
        daemon = self._daemon
        match request.verb:
            case "status":
                return daemon.status()
            case "pause":
                daemon.pause()
            case "resume":
                daemon.resume()
            case "abort":
                outcome = await daemon.abort()
                return {"status": outcome.status, "reason": outcome.reason}
            case "safe":
                return {"steps": [asdict(step) for step in await daemon.safe()]}
            case "clear":
                return {"steps": [asdict(step) for step in await daemon.clear()]}
        return daemon.status()

    def _submit(self, request: Submit) -> dict[str, Any]:
        if not self._accept_submit:
            raise Busy("this daemon runs one recipe in the foreground; start `pyrotome serve`")
        recipe = load_model(Recipe, request.recipe, request.name)
        plan = make_plan(recipe, self._daemon.rig, request.name)
        output = new_output(Path(request.output) if request.output else None, recipe.title)
        experiment = self._daemon.start(plan, request.recipe, output)
        return {
            "run": experiment.run_id,
            "file": str(output),
            "frames": plan.frames,
            "duration_s": plan.duration_s,
        }

    async def close(self) -> None:
        """Answer what is being answered, then stop listening."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._answers:
            await asyncio.wait(self._answers, timeout=2.0)
        for answer in self._answers:
            answer.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)
        self._socket.close()


class NoDaemon(Exception):
    """Nobody answered on the control endpoint."""


def ask(endpoint: str, request: Simple | Submit, timeout_s: float = 10.0) -> Reply:
    """Send one request and wait for its answer.

    Raises
    ------
    BadInput
        If the endpoint is no ZeroMQ address.
    NoDaemon
        If no answer comes in time.
    """
    request = request.model_copy(update={"id": uuid.uuid4().hex})
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.set(zmq.LINGER, 0)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise BadInput(
                endpoint,
                f"is no ZeroMQ address ({zmq.strerror(error.errno or 0)}); "
                "write it as tcp://127.0.0.1:5570",
            ) from None
        socket.send(encode(request))
        if not socket.poll(int(timeout_s * 1000)):
            raise NoDaemon(
                f"no daemon answered on {endpoint} within {timeout_s:g} s; "
                "start one with `pyrotome serve --rig RIG`, or name another --endpoint"
            )
        reply = parse_reply(socket.recv())
    if reply.id not in ("", request.id):
        raise NoDaemon(f"{endpoint} answered another request; is that a pyrotome daemon?")
    return reply
