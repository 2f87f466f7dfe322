"""Report telemetry to an MQTT broker: one topic a channel, liveness by last will, no commands.

Topics are ``<topic>/<device>/<channel>`` with ``{"t": unix seconds, "v": value}``, and
``<topic>/status``, retained, ``online`` or ``offline``. Nothing is subscribed to: the broker
cannot command anything.
"""

from __future__ import annotations

import asyncio
import json

import aiomqtt

from ..protocols.rig import Mqtt
from .publisher import Publisher

_RECONNECT_S = 2.0
_TIMEOUT_S = 5.0


async def report_to_broker(rig: Mqtt, publisher: Publisher) -> None:
    """Send the last value of every telemetry channel at an interval, until cancelled.

    A broker that is absent or goes away is tried again for ever; the experiment never waits.
    """
    status = f"{rig.topic}/status"
    complained = False
    while True:
        try:
            async with aiomqtt.Client(
                rig.host,
                rig.port,
                timeout=_TIMEOUT_S,
                will=aiomqtt.Will(status, "offline", qos=1, retain=True),
            ) as client:
                await client.publish(status, "online", qos=1, retain=True)
                complained = False
                try:
                    await _report(client, rig, publisher)
                finally:
                    await asyncio.shield(client.publish(status, "offline", qos=1, retain=True))
        except aiomqtt.MqttError as error:
            if not complained:
                complained = True
                publisher.publish(
                    "event",
                    "event",
                    {
                        "level": "warning",
                        "source": "mqtt",
                        "message": f"broker {rig.host}:{rig.port}: {error}; trying again",
                    },
                )
            await asyncio.sleep(_RECONNECT_S)


async def _report(client: aiomqtt.Client, rig: Mqtt, publisher: Publisher) -> None:
    sent: dict[str, int] = {}
    while True:
        for topic, message in list(publisher.last.items()):
            kind, _, device = topic.partition("/")
            if kind == "telemetry" and sent.get(topic) != message.header["seq"]:
                sent[topic] = message.header["seq"]
                t_s = message.header["t_ns"] * 1e-9
                for channel, value in message.header["values"].items():
                    await client.publish(
                        f"{rig.topic}/{device}/{channel}", json.dumps({"t": t_s, "v": value})
                    )
            elif topic == "state" and sent.get(topic) != message.header["seq"]:
                sent[topic] = message.header["seq"]
                await client.publish(
                    f"{rig.topic}/state",
                    json.dumps({"t": message.header["t_ns"] * 1e-9, "v": message.header["state"]}),
                )
        await asyncio.sleep(rig.interval_s)
