"""Control messages: one JSON request and one JSON reply over ZeroMQ (ROUTER in the daemon).

Request ``{"id": "...", "verb": "pause", ...}``; reply ``{"id": "...", "ok": true, "data": {}}``
or ``{"id": "...", "ok": false, "code": 2, "error": "..."}`` with the command line's exit codes.
Any REQ or DEALER socket can speak this.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .loading import MAX_TEXT_BYTES

MAX_REQUEST_BYTES = 2 * MAX_TEXT_BYTES

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_DEVICE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(default="", max_length=100)


class Simple(_Request):
    """A verb without arguments."""

    verb: Literal["status", "pause", "resume", "abort", "safe", "clear"]


class Submit(_Request):
    """Run a recipe; the answer comes when it has been checked, before it starts."""

    verb: Literal["submit"]
    recipe: str = Field(max_length=MAX_TEXT_BYTES)
    name: str = Field(default="recipe", max_length=500)
    output: str | None = Field(default=None, max_length=1000)


Request = Annotated[Simple | Submit, Field(discriminator="verb")]
_REQUEST: TypeAdapter[Simple | Submit] = TypeAdapter(Request)


class BadRequest(ValueError):
    """Bytes that are no request."""


class Reply(BaseModel):
    """The daemon's answer."""

    id: str = ""
    ok: bool
    code: int = 0
    error: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)


def parse_request(raw: bytes) -> Simple | Submit:
    """Decode a request.

    Raises
    ------
    BadRequest
        With the reason, if the bytes are no request.
    """
    if len(raw) > MAX_REQUEST_BYTES:
        raise BadRequest(f"request of {len(raw)} bytes; at most {MAX_REQUEST_BYTES}")
    try:
        return _REQUEST.validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(p) for p in first["loc"])
        raise BadRequest(f"{path + ': ' if path else ''}{first['msg']}") from None


def parse_reply(raw: bytes) -> Reply:
    """Decode a reply; raises BadRequest if it is none."""
    try:
        return Reply.model_validate_json(raw)
    except ValidationError as error:
        raise BadRequest(f"unreadable reply: {error.errors()[0]['msg']}") from None


def encode(message: Simple | Submit | Reply) -> bytes:
    """Bytes of a request or a reply."""
    return json.dumps(message.model_dump(), separators=(",", ":")).encode()
