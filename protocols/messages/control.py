"""Control messages: one JSON request and one JSON reply over ZeroMQ (ROUTER in the daemon).

Request ``{"id": "...", "verb": "pause", ...}``; reply ``{"id": "...", "ok": true, "data": {}}``
or ``{"id": "...", "ok": false, "code": 2, "error": "..."}`` with the command line's exit codes.
Any REQ or DEALER socket can speak this. A request that has an `id` is carried out once. Where keys
are demanded (CURVE), `id` and `sent_ns` (UTC nanoseconds, within 30 s of the daemon's clock) are
needed, and what controls the experiment carries the `token` that ``lease`` has returned; ``safe``
needs neither token nor time.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..core.documents import MAX_TEXT_BYTES
from ..core.errors import BadInput
from ..core.units import parse_quantity

MAX_REQUEST_BYTES = 2 * MAX_TEXT_BYTES

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_DEVICE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(default="", max_length=100)
    sent_ns: int | None = Field(default=None, ge=0)
    token: str | None = Field(default=None, max_length=100)


class Simple(_Request):
    """A verb without arguments."""

    verb: Literal["status", "pause", "abort", "safe", "clear", "release"]


class Point(BaseModel):
    """A place in a picture: nm from its middle, or row and column of a pixel, counted from 0.

    `y` grows towards higher rows, `x` towards higher columns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    y: Annotated[float, Field(allow_inf_nan=False)]
    x: Annotated[float, Field(allow_inf_nan=False)]
    unit: Literal["nm", "px"] = "nm"

    def __str__(self) -> str:
        return f"({self.y:g}, {self.x:g}) {self.unit}"


def parse_point(text: str, where: str) -> Point:
    """A point as people write it.

    Parameters
    ----------
    text : str
        ``Y,X``, both with a unit of length, or both in px.
    where : str
        What it is, for messages.

    Raises
    ------
    BadInput
        If it is not one.

    Examples
    --------
    >>> parse_point("120 nm, -0.34 um", "--at")
    Point(y=120.0, x=-340.0, unit='nm')
    >>> str(parse_point("31 px,140 px", "--at"))
    '(31, 140) px'
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2:
        raise BadInput(where, f"'{text}' is no Y,X; write it as in '120 nm,-340 nm'")
    pixels = [part.endswith("px") for part in parts]
    if any(pixels) and not all(pixels):
        # "px" is also a length, of stylesheets.
        raise BadInput(where, f"'{text}' is in px by half; write it as in '31 px,140 px'")
    try:
        if all(pixels):
            y, x = (float(part[:-2]) for part in parts)
            return Point(y=y, x=x, unit="px")
        y, x = (parse_quantity(part, "nm", "120 nm") for part in parts)
        return Point(y=y, x=x)
    except ValidationError:
        raise BadInput(where, f"'{text}' is no place in a picture") from None
    except ValueError as error:
        raise BadInput(where, f"{error}; or both in px, as in '31 px,140 px'") from None


class Resume(_Request):
    """Continue after a pause.

    With `at`, a person says where the specimen stands that was not found: in the picture of the
    search, or in the last frame where nothing was searched. It is looked for there first.
    """

    verb: Literal["resume"]
    at: Point | None = None


class TakeLease(_Request):
    """Take the control lease, or renew it; the answer holds token and seconds.

    With `take_over`, which admins may, it is taken from the client that has it.
    """

    verb: Literal["lease"]
    take_over: bool = False


class Latest(_Request):
    """Headers of the last messages of every topic that begins with one of `topics`."""

    verb: Literal["latest"]
    topics: Annotated[
        list[Annotated[str, Field(max_length=200)]], Field(min_length=1, max_length=50)
    ]


class Submit(_Request):
    """Run a recipe; the answer comes when it has been checked, before it starts."""

    verb: Literal["submit"]
    recipe: str = Field(max_length=MAX_TEXT_BYTES)
    name: str = Field(default="recipe", max_length=500)
    output: str | None = Field(default=None, max_length=1000)


Request = Simple | Resume | Submit | TakeLease | Latest
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="verb")])


class BadRequest(ValueError):
    """Bytes that are not a request."""


class Reply(BaseModel):
    """The daemon's answer."""

    id: str = ""
    ok: bool
    code: int = 0
    error: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)


def parse_request(raw: bytes | memoryview) -> Request:
    """Decode a request.

    Raises
    ------
    BadRequest
        With the reason, if the bytes are not a request.
    """
    if len(raw) > MAX_REQUEST_BYTES:
        raise BadRequest(f"request of {len(raw)} bytes; at most {MAX_REQUEST_BYTES}")
    try:
        return _REQUEST.validate_json(bytes(raw))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(p) for p in first["loc"])
        raise BadRequest(f"{path + ': ' if path else ''}{first['msg']}") from None


def parse_reply(raw: bytes) -> Reply:
    """Decode a reply; raises BadRequest if it is not valid."""
    try:
        return Reply.model_validate_json(raw)
    except ValidationError as error:
        raise BadRequest(f"unreadable reply: {error.errors()[0]['msg']}") from None


def encode(message: Request | Reply) -> bytes:
    """Bytes of a request or a reply."""
    body = message.model_dump(exclude_none=not isinstance(message, Reply))
    return json.dumps(body, separators=(",", ":")).encode()
