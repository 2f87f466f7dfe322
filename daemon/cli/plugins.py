"""Commands that other parts and other packages add: the entry-point group ``pyrotome.commands``.

The daemon never imports the analysis; its commands are found like drivers and steps are.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

import typer

GROUP = "pyrotome.commands"


def add_commands(app: typer.Typer, warn: Callable[[str], object]) -> None:
    """Add the commands of every installed entry point.

    An entry point that cannot be loaded is reported and left out: `pyrotome safe` must work
    whatever else is installed.

    Parameters
    ----------
    app : Typer
        Gets the commands.
    warn : callable
        Takes one line of text.
    """
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            commands = point.load()
            if not isinstance(commands, typer.Typer):
                raise TypeError(f"{point.value} is not a typer.Typer")
        except Exception as error:
            warn(f"pyrotome: the commands '{point.name}' cannot be loaded: {error}\n")
        else:
            app.registered_commands += commands.registered_commands
