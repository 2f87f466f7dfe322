"""The dry run of a rig: what can be found wrong with it without touching hardware."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...drivers import registry
from ...protocols.config.rig import Rig
from ...protocols.config.simulated import Replay
from ...protocols.core.errors import BadInput

_SCHEMES = ("tcp", "ipc")


def rig_problems(rig: Rig) -> list[BadInput]:
    """Everything that would end ``run`` or ``serve`` before a device is connected.

    Parameters
    ----------
    rig : Rig
        Valid, its paths taken from the folder of its file.

    Returns
    -------
    list of BadInput
        Each names the path inside the rig, what was read and what would be right.
    """
    return [
        *registry.rig_problems(rig),
        *_stream_problems(rig),
        *_key_problems(rig),
        *_mqtt_problems(rig),
        *_replay_problems(rig),
    ]


def _stream_problems(rig: Rig) -> Iterator[BadInput]:
    streams = {"monitor": rig.streams.monitor, "control": rig.streams.control}
    for name, endpoint in streams.items():
        problem = _unbindable(endpoint)
        if problem is not None:
            right = "write 'tcp://127.0.0.1:PORT', with port * for any that is free"
            yield BadInput(f"streams.{name}", f"'{endpoint}' {problem}; {right}")
    if rig.streams.monitor == rig.streams.control and not rig.streams.control.endswith(
        (":*", ":0")
    ):
        problem = f"'{rig.streams.control}' is the monitor's already; write another port"
        yield BadInput("streams.control", problem)


def _unbindable(endpoint: str) -> str | None:
    scheme, separator, rest = endpoint.partition("://")
    if not separator or scheme not in _SCHEMES:
        return "does not begin with tcp://"
    if scheme == "ipc":
        return None if rest else "names no path"
    host, _, port = rest.rpartition(":")
    if not host or re.search(r"[\s/?#@]", rest):
        return "is not an address of this computer and a port"
    if port == "*":
        return None
    if not (port.isascii() and port.isdigit() and int(port[:9]) <= 65535):
        return f"has the port '{port[:20]}'; ports go from 1 to 65535"
    return None


def _key_problems(rig: Rig) -> Iterator[BadInput]:
    if rig.security is None:
        return
    from ..access.keys import load_server

    try:
        load_server(Path(rig.security.keys))
    except BadInput as error:
        yield BadInput("security.keys", str(error))


def _mqtt_problems(rig: Rig) -> Iterator[BadInput]:
    if rig.mqtt is None:
        return
    if not re.fullmatch(r"[\w.:-]+", rig.mqtt.host) or rig.mqtt.host.startswith("tcp:"):
        right = "write the name or address of the broker alone, and its port under 'port'"
        yield BadInput("mqtt.host", f"'{rig.mqtt.host}' is no name of a computer; {right}")
    from ..streaming.mqtt import MqttReport

    try:
        MqttReport(rig.mqtt)
    except BadInput as error:
        yield BadInput("mqtt", str(error))


def _replay_problems(rig: Rig) -> Iterator[BadInput]:
    if rig.simulator is None or not isinstance(rig.simulator.specimen, Replay):
        return
    for name in ("stack", "tilts"):
        path = Path(getattr(rig.simulator.specimen, name))
        if not path.is_file():
            yield BadInput(f"simulator.specimen.{name}", f"'{path}': there is no such file")
