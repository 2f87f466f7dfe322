"""Commands for a daemon that runs elsewhere: control, the lease, and `watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...protocols.config.rig import Streams
from ...protocols.core.documents import read_text
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import (
    EXIT_DEVICE,
    EXIT_FAILED,
    Request,
    Resume,
    Simple,
    Submit,
    TakeLease,
    parse_point,
)
from .options import (
    JsonOption,
    KeyOption,
    RecipeArgument,
    error_console,
    fail,
    output_console,
    print_json,
)

_CONTROL = Streams().control
_MONITOR = Streams().monitor
# A daemon that makes beam and heater safe answers when both have confirmed.
_SAFE_TIMEOUT_S = 180.0

ControlOption = Annotated[
    str, typer.Option("--endpoint", metavar="E", help="Control endpoint of the daemon.")
]

commands = typer.Typer()


def _request(
    endpoint: str, key: Path | None, request: Request, timeout_s: float = 5.0
) -> dict[str, Any]:
    """Send a request and return the data of the reply; ends the command if it is refused."""
    from ..client.client import NoDaemon, read_key, send_request

    try:
        reply = send_request(endpoint, request, timeout_s, read_key(key))
    except NoDaemon as error:
        fail(str(error), EXIT_DEVICE)
    if not reply.ok:
        fail(reply.error or "refused", reply.code or EXIT_FAILED)
    return reply.data


def _control(
    endpoint: str, key: Path | None, request: Request, timeout_s: float = 5.0
) -> dict[str, Any]:
    """Send a request that needs the control lease, which is taken or renewed if it is free."""
    token = _request(endpoint, key, TakeLease(verb="lease"))["token"]
    return _request(endpoint, key, request.model_copy(update={"token": token}), timeout_s)


@commands.command(epilog="Example: `pyrotome submit examples/recipes/quickstart.yaml`")
def submit(
    recipe: RecipeArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Run file, on the daemon's machine."),
    ] = None,
    endpoint: ControlOption = _CONTROL,
    key: KeyOption = None,
) -> None:
    """Let a served daemon run a recipe."""
    request = Submit(
        verb="submit",
        recipe=read_text(recipe),
        name=str(recipe),
        output=str(output.absolute()) if output is not None else None,
    )
    data = _control(endpoint, key, request)
    output_console().print(
        f"run {data['run']} started: {data['frames']} frames into {data['file']}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


@commands.command(epilog="Example: `pyrotome status --json`")
def status(
    as_json: JsonOption = False, endpoint: ControlOption = _CONTROL, key: KeyOption = None
) -> None:
    """Say what a daemon is doing."""
    from .progress import status_lines

    data = _request(endpoint, key, Simple(verb="status"))
    if as_json:
        print_json(data)
        return
    for name, value in status_lines(data):
        output_console().print(f"{name:>12}  {value}", highlight=False)


@commands.command(epilog="Example: `pyrotome pause --endpoint tcp://127.0.0.1:5570`")
def pause(endpoint: ControlOption = _CONTROL, key: KeyOption = None) -> None:
    """Finish the exposure or hold under way, then wait at standby."""
    _control(endpoint, key, Simple(verb="pause"))
    output_console().print("pausing: the exposure or hold under way is finished first")


@commands.command(
    epilog='Examples: `pyrotome resume`, `pyrotome resume --at "120 nm,-340 nm"`, '
    '`pyrotome resume --at "31 px,140 px"`'
)
def resume(
    at: Annotated[
        str | None,
        typer.Option(metavar="Y,X", help="Where the specimen stands in the picture of the search."),
    ] = None,
    endpoint: ControlOption = _CONTROL,
    key: KeyOption = None,
) -> None:
    """Continue after a pause.

    With --at where the run did not find the specimen: Y (down) and X (right) from the middle of the
    picture of the search, with a unit, or row and column in it, in px. Without a search, in the
    last frame. A scout looks there before anything is exposed; if it does not show the specimen,
    the run pauses again.
    """
    point = None if at is None else parse_point(at, "--at")
    _control(endpoint, key, Resume(verb="resume", at=point))
    output_console().print("resumed" if point is None else f"resumed: a scout looks at {point}")


@commands.command(epilog="Example: `pyrotome abort`")
def abort(endpoint: ControlOption = _CONTROL, key: KeyOption = None) -> None:
    """End the experiment safely: beam blanked, heater at its safe level, file closed."""
    _control(endpoint, key, Simple(verb="abort"), _SAFE_TIMEOUT_S)
    output_console().print("aborted: beam blanked, heater at its safe level, file closed")


@commands.command(epilog="Example: `pyrotome safe`")
def safe(endpoint: ControlOption = _CONTROL, key: KeyOption = None) -> None:
    """Emergency stop: beam blanked and heater at its safe level, whatever is going on."""
    _request(endpoint, key, Simple(verb="safe"), _SAFE_TIMEOUT_S)
    output_console().print("safe: beam blanked, heater at its safe level")


@commands.command(epilog="Example: `pyrotome clear`")
def clear(endpoint: ControlOption = _CONTROL, key: KeyOption = None) -> None:
    """Clear a panic after looking at beam and heater: both must confirm that they are safe."""
    data = _request(endpoint, key, Simple(verb="clear"), _SAFE_TIMEOUT_S)
    for step in data["steps"]:
        output_console().print(step["action"] if step["confirmed"] else f"NOT {step['action']}")


@commands.command(epilog="Examples: `pyrotome lease`, `pyrotome lease --release`")
def lease(
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take it from its holder; for admins.")
    ] = False,
    release: Annotated[bool, typer.Option("--release", help="Give it back.")] = False,
    endpoint: ControlOption = _CONTROL,
    key: KeyOption = None,
) -> None:
    """Take the control lease, or renew it.

    Commands that control take the lease by themselves while it is free; it expires by itself.
    """
    if take_over and release:
        raise BadInput("--release", "cannot be used with --take-over; pass one of them")
    if release:
        _request(endpoint, key, Simple(verb="release"))
        output_console().print("released: anybody may take control")
        return
    data = _request(endpoint, key, TakeLease(verb="lease", take_over=take_over))
    output_console().print(
        f"'{data['holder']}' has control for {data['seconds']:g} s unless renewed", highlight=False
    )


@commands.command(epilog="Example: `pyrotome watch --endpoint tcp://127.0.0.1:5571 --json`")
def watch(
    endpoint: Annotated[
        str, typer.Option("--endpoint", metavar="E", help="Monitor endpoint of the daemon.")
    ] = _MONITOR,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Stop after so many seconds.")
    ] = None,
    key: KeyOption = None,
) -> None:
    """Watch a running experiment from anywhere."""
    from ..client.client import read_key
    from .watch import watch_endpoint

    watch_endpoint(endpoint, as_json, seconds, output_console(), error_console(), read_key(key))
