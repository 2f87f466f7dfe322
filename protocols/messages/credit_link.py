"""The lossless link from the daemon to its consumers (recorder, online analysis): credit.

The daemon binds a ROUTER, each consumer connects a DEALER whose identity is its name. Downstream go
stream messages, ``flush`` before the specimen changes, and ``end`` when the run is over; upstream
go the small messages below, ``[kind, JSON, payload...]``. A consumer grants credit in frames; the
daemon sends one frame per credit. When the recorder has none left, the schedule waits; when the
analysis has none left, it is sent the header alone, marked ``"in_file": true`` and free of charge,
and reads the pixels from the run file, so that it cannot hold the acquisition up. Telemetry and
events need no credit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, cast

from .stream import BadMessage

Kind = Literal["hello", "credit", "status", "result", "event", "done"]
KINDS: tuple[Kind, ...] = ("hello", "credit", "status", "result", "event", "done")

RECORDER = "recorder"
ANALYSIS = "analysis"
TRACKER = "tracker"
# What the tracker is told between frames; the payload is a message of `tracking.py`.
TRACKING_TOPIC = "tracking"
END_TOPIC = "end"
FLUSH_TOPIC = "flush"

# hello  {"credit": n}            ready to receive; n frames may come
# credit {"frames": n}            n more frames may come
# status {"backlog": n, ...}      what is still to do; "kept": n, of the frames that came, n are
#                                 dealt with for good. Sent at once in answer to FLUSH_TOPIC
# result {"name", ...} + arrays   a stream message of type result, to publish and record; with
#                                 "record": false only to publish
# event  {"level", "message"}     to be published and recorded as an event
# done   {...}                    everything received is dealt with; sent in answer to END_TOPIC


def upstream(kind: Kind, body: dict[str, Any], payload: Sequence[Any] = ()) -> list[Any]:
    """Multipart message of a consumer to the daemon."""
    return [kind.encode(), json.dumps(body, separators=(",", ":")).encode(), *payload]


def parse_upstream(
    parts: Sequence[bytes | memoryview],
) -> tuple[Kind, dict[str, Any], list[bytes | memoryview]]:
    """Kind, body and payload of a consumer's message.

    Raises
    ------
    BadMessage
        If it is not valid.
    """
    if len(parts) < 2:
        raise BadMessage("a consumer's message has a kind and a body")
    kind: Kind | None = next((k for k in KINDS if k.encode() == parts[0]), None)
    if kind is None:
        raise BadMessage(f"unknown kind {bytes(parts[0][:40])!r}")
    try:
        body = json.loads(bytes(parts[1]))
    except (ValueError, RecursionError):
        raise BadMessage("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadMessage("the body is not a JSON object")
    return kind, cast(dict[str, Any], body), list(parts[2:])
