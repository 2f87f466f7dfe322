"""``pyrotome keys``: make, list and revoke the keys of people who connect from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..access.people import KEY_ROLES
from .options import output_console

keys = typer.Typer(
    name="keys",
    help="CURVE keys of the daemon and of people who connect from other machines.",
    epilog="Example: `pyrotome keys init keys`, `pyrotome keys add keys anna --role operator`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Of the keys; named in the rig as security.keys.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")]


def _print(text: str) -> None:
    output_console().print(text, soft_wrap=True, highlight=False)


@keys.command("init", epilog="Example: `pyrotome keys init keys`")
def init(folder: Folder) -> None:
    """Make the daemon's own key pair."""
    from ..access.keys import make_server_keys

    _print(f"{make_server_keys(folder)} made: it stays on the daemon's machine")


@keys.command("add", epilog="Example: `pyrotome keys add keys anna --role operator`")
def add(
    folder: Folder,
    name: Name,
    role: Annotated[str, typer.Option(metavar="ROLE", help=f"One of {', '.join(KEY_ROLES)}.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Else NAME.key_secret here."),
    ] = None,
) -> None:
    """Make a key for a person; give it to them on a safe way.

    Observers watch and request the status; operators control, one at a time; an admin can take
    control over as well. A daemon that runs takes notice at once.
    """
    from ..access.keys import add_person

    path = add_person(folder, name, role, output)
    _print(f"{path} made: give it to {name} alone (--key FILE or PYROTOME_KEY)")


@keys.command("list", epilog="Example: `pyrotome keys list keys`")
def list_(folder: Folder) -> None:
    """Say who may connect."""
    from rich.table import Table

    from ..access.keys import people

    table = Table()
    table.add_column("name")
    table.add_column("role")
    for person in people(folder):
        table.add_row(person.name, person.role)
    output_console().print(table)


@keys.command("revoke", epilog="Example: `pyrotome keys revoke keys anna`")
def revoke_(folder: Folder, name: Name) -> None:
    """Revoke a key; a daemon that runs ends its connections."""
    from ..access.keys import revoke

    _print(f"{name} can no longer connect; the public key is kept as {revoke(folder, name)}")
