"""DECTRIS' control wire: parameters and commands over HTTP, each exchange with a deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp

from ...protocols.core.errors import BadMessage
from ...protocols.wires import simplon
from ...protocols.wires.simplon import Module, Parameter, Task
from ..base import GRACE_S, DeviceRefused
from ..links.errors import not_connected
from ..links.http import HttpClient, http_body, http_deadline, http_session

_MAX_QUOTED = 200


class NoSuchParameter(DeviceRefused):
    """The instrument does not know a parameter (404)."""


class RestLink(HttpClient):
    """One instrument's control unit. None of its exchanges is repeated by itself."""

    def _new_session(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_went_out)
        return http_session(
            connector=aiohttp.TCPConnector(force_close=True),
            headers={"Accept": simplon.MIME_JSON, "Accept-Encoding": "identity"},
            trace_configs=[trace],
        )

    async def version(self, timeout_s: float = GRACE_S) -> str:
        """Version of the API that the instrument speaks; raises as :meth:`get`."""
        found = await self._get(simplon.VERSION_PATH, timeout_s)
        return str(found.value)

    async def get(
        self, name: str, timeout_s: float = GRACE_S, *, module: Module = "detector"
    ) -> Parameter:
        """A parameter of the configuration.

        Raises
        ------
        NoSuchParameter
            If the instrument does not know it.
        DeviceRefused
            If it answers another error, or something that is not a parameter.
        DeviceLost
            If it does not answer by the deadline.
        """
        return await self._get(simplon.path(module, "config", name), timeout_s)

    async def status(self, name: str, timeout_s: float = GRACE_S) -> Parameter:
        """A parameter of the detector's status; raises as :meth:`get`."""
        return await self._get(simplon.path("detector", "status", name), timeout_s)

    async def put(
        self,
        name: str,
        value: simplon.Value,
        timeout_s: float = GRACE_S,
        *,
        module: Module = "detector",
    ) -> tuple[str, ...]:
        """Set a parameter; names of those that changed with it. Raises as :meth:`get`."""
        request = f"set {_named(module, 'config', name)} to {value}"
        url = simplon.path(module, "config", name)
        raw = await self._exchange("PUT", url, simplon.encode_setting(value), request, timeout_s)
        try:
            return simplon.parse_changed(raw)
        except BadMessage as error:
            raise self._not_simplon(request, str(error)) from None

    async def command(
        self, name: str, timeout_s: float = GRACE_S, sent: Callable[[], None] | None = None
    ) -> int | None:
        """Carry out a command of the detector.

        Parameters
        ----------
        name : str
            Such as ``arm``.
        timeout_s : float
            Wall seconds; some commands are answered when they have been carried out.
        sent : callable, optional
            Called when the command has gone out.

        Returns
        -------
        int or None
            Number of the series, from commands that tell it.

        Raises
        ------
        DeviceRefused, DeviceLost
            As from :meth:`get`.
        """
        request = f"execute command {name}"
        url = simplon.path("detector", "command", name)
        raw = await self._exchange("PUT", url, b"", request, timeout_s, sent)
        if name not in simplon.SERIES_COMMANDS:
            return None
        try:
            return simplon.parse_series(raw)
        except BadMessage as error:
            raise self._not_simplon(request, str(error)) from None

    async def _get(self, url: str, timeout_s: float) -> Parameter:
        request = f"read {url.rpartition(simplon.API_VERSION)[2].lstrip('/') or url}"
        raw = await self._exchange("GET", url, None, request, timeout_s)
        try:
            return simplon.parse_parameter(raw)
        except BadMessage as error:
            raise self._not_simplon(request, str(error)) from None

    async def _exchange(
        self,
        method: str,
        url: str,
        body: bytes | None,
        request: str,
        timeout_s: float,
        sent: Callable[[], None] | None = None,
    ) -> bytes:
        session = self._session
        if session is None:
            raise not_connected(self._device, request)
        async with (
            http_deadline(
                self._device, request, self.endpoint, timeout_s, session, self._not_simplon
            ),
            session.request(
                method,
                self.endpoint + url,
                data=body,
                headers=None if body is None else {"Content-Type": simplon.MIME_JSON},
                allow_redirects=method == "GET",
                max_redirects=2,
                timeout=aiohttp.ClientTimeout(total=None),
                trace_request_ctx=sent,
            ) as response,
        ):
            raw = await http_body(response, simplon.MAX_BODY_BYTES)
        if raw is None:
            raise self._not_simplon(request, f"it sent more than {simplon.MAX_BODY_BYTES} bytes")
        if response.status == 404:
            raise NoSuchParameter(self._device, request, *self._refusal(response, raw))
        if response.status != 200:
            raise DeviceRefused(self._device, request, *self._refusal(response, raw))
        return raw

    def _refusal(self, response: aiohttp.ClientResponse, raw: bytes) -> tuple[str, str]:
        text = " ".join(raw.decode("utf-8", "replace").split())[:_MAX_QUOTED]
        answer = f"{self.endpoint} answered {response.status} {response.reason}"
        return f"{answer}: {text}" if text else answer, "See the log of the detector's control unit"

    def _not_simplon(self, request: str, why: str) -> DeviceRefused:
        return DeviceRefused(
            self._device,
            request,
            f"the answer of {self.endpoint} is not SIMPLON's: {why}",
            "Check that the rig's endpoint names a DECTRIS control unit",
        )


def _named(module: Module, task: Task, name: str) -> str:
    return f"{module} {task} {name}" if module != "detector" else f"{task} {name}"


async def _went_out(_session: object, context: Any, _params: object) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx()
