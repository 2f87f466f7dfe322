"""Report telemetry to an MQTT broker: one topic a channel, liveness by last will, no commands.

Topics are ``<topic>/<device>/<channel>`` with ``{"t": unix seconds, "v": value}``, and
``<topic>/status``, ``online`` or ``offline``. Status and ``<topic>/state`` are retained, for those
who subscribe late; readings are not: a retained setpoint would look new. Nothing is subscribed to:
the broker cannot command anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import aiomqtt

from ...protocols.config.rig import Mqtt, MqttTls
from ...protocols.core.errors import BadInput
from ...protocols.core.secret_file import check_secret, read_secret
from ..runtime.event_bus import Event, EventBus
from .publisher import Publisher

_RECONNECT_S = 2.0
# Wall seconds that the broker has to accept each message.
_TIMEOUT_S = 3.0
_GOODBYE_S = 1.0
_KEEPALIVE_S = 10

_log = logging.getLogger("pyrotome.mqtt")
# Problems with the broker become one event, not lines on the terminal.
_log.addHandler(logging.NullHandler())
_log.propagate = False


class MqttReport:
    """Sends the last value of every telemetry channel to a broker.

    Parameters
    ----------
    rig : Mqtt
        The broker and how to reach it.

    Raises
    ------
    BadInput
        If certificates or password cannot be read, or a secret is readable by other users.
    """

    def __init__(self, rig: Mqtt) -> None:
        self._rig = rig
        self._tls = _tls_context(rig.tls) if rig.tls is not None else None
        file = rig.password_file
        self._password = read_secret(Path(file)) if file is not None else None
        self._sent: dict[str, int] = {}
        self.skipped = 0
        # Whether the broker has answered at all, and whether it was told that it does not.
        self._answered = self._told = False

    def tell_without_answer(self, bus: EventBus) -> None:
        """Say at the end of a run that the broker has not answered until then."""
        if not (self._answered or self._told):
            self._told = True
            text = f"broker {self._rig.host}:{self._rig.port}: no answer until the end of the run"
            bus.publish(Event("warning", "mqtt", text, recorded=False))

    async def report(self, publisher: Publisher, bus: EventBus) -> None:
        """Send the last messages of a publisher at an interval, until cancelled.

        A broker that is absent, hangs or goes away is tried again for ever, and delays nothing.

        Parameters
        ----------
        publisher : Publisher
            Knows the last message of each topic.
        bus : EventBus
            Gets an event, for monitors, when the broker cannot be reached.
        """
        broker, lost = f"broker {self._rig.host}:{self._rig.port}", False

        def connected() -> None:
            nonlocal lost
            self._answered = True
            if lost:
                lost = False
                bus.publish(Event("info", "mqtt", f"{broker}: connected again", recorded=False))

        while True:
            try:
                await self._report_once(publisher, connected)
            except (aiomqtt.MqttError, OSError, ValueError) as error:
                if not lost:
                    lost = self._told = True
                    text = f"{broker}: {error}; trying again"
                    bus.publish(Event("warning", "mqtt", text, recorded=False))
                await asyncio.sleep(_RECONNECT_S)

    async def _report_once(self, publisher: Publisher, connected: Callable[[], None]) -> None:
        """Connect and send until the connection breaks."""
        rig, status = self._rig, f"{self._rig.topic}/status"
        async with aiomqtt.Client(
            rig.host,
            rig.port,
            timeout=_TIMEOUT_S,
            keepalive=_KEEPALIVE_S,
            username=rig.username,
            password=self._password,
            tls_context=self._tls,
            logger=_log,
            max_queued_incoming_messages=1,
            will=aiomqtt.Will(status, "offline", qos=1, retain=True),
        ) as client:
            await client.publish(status, "online", qos=1, retain=True)
            # The broker may have forgotten what it had retained.
            self._sent.pop("state", None)
            connected()
            lost = asyncio.create_task(_until_lost(client), name="broker")
            try:
                while not lost.done():
                    await self._send_new(client, publisher)
                    await asyncio.wait([lost], timeout=rig.interval_s)
                await lost
            finally:
                lost.cancel()
                await asyncio.gather(lost, return_exceptions=True)
                with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                    async with asyncio.timeout(_GOODBYE_S):
                        await client.publish(status, "offline", qos=1, retain=True)

    async def _send_new(self, client: aiomqtt.Client, publisher: Publisher) -> None:
        rig = self._rig
        for topic, message in list(publisher.last.items()):
            kind, _, device = topic.partition("/")
            seq = int(message.header["seq"])
            before = self._sent.get(topic)
            if before == seq or kind not in ("telemetry", "state"):
                continue
            self._sent[topic] = seq
            self.skipped += max(0, seq - before - 1) if before is not None else 0
            t_s = message.header["t_ns"] * 1e-9
            if topic == "state":
                body = json.dumps({"t": t_s, "v": message.header["state"]})
                await client.publish(f"{rig.topic}/state", body, qos=1, retain=True)
                continue
            for channel, value in message.header["values"].items():
                body = json.dumps({"t": t_s, "v": value})
                await client.publish(f"{rig.topic}/{device}/{channel}", body, retain=False)


async def _until_lost(client: aiomqtt.Client) -> None:
    """Raise MqttError when the connection breaks, also while nothing is sent."""
    async for _ in client.messages:
        pass


def _tls_context(tls: MqttTls) -> ssl.SSLContext:
    """TLS that trusts the given authority alone, with our own certificate if one is named."""
    if tls.key_file is not None:
        check_secret(Path(tls.key_file))
    file = tls.ca_file
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            file = tls.cert_file
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except FileNotFoundError:
        raise BadInput(f"rig: mqtt.tls: {file}", "no such file") from None
    except (ssl.SSLError, OSError) as error:
        raise BadInput(f"rig: mqtt.tls: {file}", f"is not a certificate: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
