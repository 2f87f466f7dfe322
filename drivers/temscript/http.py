"""temscript's HTTP: GET answers a value as JSON, PUT takes one."""

from __future__ import annotations

from typing import Any

import aiohttp

from ...protocols.core.errors import BadMessage
from ...protocols.wires import temscript
from ..base import GRACE_S, DeviceRefused
from ..links.errors import not_connected
from ..links.http import HttpClient, http_body, http_deadline, http_session

MAX_REPLY_BYTES = 1_000_000


class TemscriptHttp(HttpClient):
    """JSON over HTTP as temscript speaks it: GET answers a value, PUT takes one."""

    def _new_session(self) -> aiohttp.ClientSession:
        # One connection at a time: the original server answers one request after the other.
        return http_session(
            connector=aiohttp.TCPConnector(limit=1),
            headers={"Accept": temscript.MIME_JSON, "Accept-Encoding": "identity"},
        )

    async def get(self, name: str, timeout_s: float = GRACE_S) -> Any:
        """Value of an endpoint.

        Raises
        ------
        DeviceRefused
            If the server answers with an error or with something that is not JSON.
        DeviceLost
            If no answer comes by the deadline.
        """
        request = f"read {name}"
        raw = await self._exchange("GET", name, None, request, timeout_s)
        try:
            return temscript.parse_value(raw)
        except BadMessage as error:
            raise self._not_temscript(request, str(error)) from None

    async def put(self, name: str, value: Any, timeout_s: float = GRACE_S, query: str = "") -> None:
        """Set an endpoint; raises as :meth:`get`."""
        body = temscript.encode_value(value)
        await self._exchange("PUT", name + query, body, f"set {name} to {body.decode()}", timeout_s)

    async def _exchange(
        self, method: str, name: str, body: bytes | None, request: str, timeout_s: float
    ) -> bytes:
        if self._session is None:
            raise not_connected(self._device, request)
        headers = None if body is None else {"Content-Type": temscript.MIME_JSON}
        async with (
            http_deadline(
                self._device, request, self.endpoint, timeout_s, self._session, self._not_temscript
            ),
            self._session.request(
                method,
                self.endpoint + temscript.API + name,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as response,
        ):
            return await self._read(response, request)

    async def _read(self, response: aiohttp.ClientResponse, request: str) -> bytes:
        if response.status == 204:
            return b"null"
        if response.status != 200:
            raise DeviceRefused(
                self._device,
                request,
                f"{self.endpoint} answered {response.status} {response.reason}",
                "See the log of the microscope's server",
            )
        if response.content_type != temscript.MIME_JSON:
            # Pickle among them: reading one runs whatever code it holds.
            raise self._not_temscript(request, f"it sent {response.content_type}")
        raw = await http_body(response, MAX_REPLY_BYTES)
        if raw is None:
            raise self._not_temscript(request, f"it sent more than {MAX_REPLY_BYTES} bytes")
        return raw

    def _not_temscript(self, request: str, why: str) -> DeviceRefused:
        return DeviceRefused(
            self._device,
            request,
            f"the answer of {self.endpoint} is not temscript's JSON: {why}",
            "Check that the rig's endpoint names a temscript server",
        )
