"""Commands that list what is installed: `drivers` and `steps`."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from ...protocols.core.errors import BadInput
from .options import JsonOption, output_console, print_json

commands = typer.Typer()


@commands.command(epilog="Example: `pyrotome drivers`")
def drivers(as_json: JsonOption = False) -> None:
    """List the installed drivers."""
    _show(_driver_rows(), ("name", "role", "summary", "options"), as_json)


def _driver_rows() -> list[dict[str, str]]:
    from ...drivers.registry import driver_class, installed
    from ...protocols.config.rig import ROLES

    rows: list[dict[str, str]] = []
    for name in installed():
        for role in ROLES:
            try:
                found = driver_class(name, role)
            except BadInput as error:
                if "is not a" in error.problem:
                    continue
                rows.append({"name": name, "role": "?", "summary": error.problem})
                break
            options = ", ".join(found.Options.model_fields) or "none"
            rows.append({"name": name, "role": role, "summary": found.summary, "options": options})
            break
    return rows


@commands.command(epilog="Example: `pyrotome steps`")
def steps(as_json: JsonOption = False) -> None:
    """List the installed analysis steps."""
    _show(_step_rows(), ("name", "summary", "takes", "gives", "settings"), as_json)


def _step_rows() -> list[dict[str, str]]:
    from ...protocols.steps.registry import UnknownStep, installed, step_class

    rows: list[dict[str, str]] = []
    for name in installed():
        try:
            found = step_class(name)
        except UnknownStep as error:
            rows.append({"name": name, "summary": str(error)})
            continue
        fields = found.Settings.model_fields.items()
        rows.append(
            {
                "name": name,
                "summary": found.summary,
                "takes": ", ".join(found.inputs) or "frames",
                "gives": _given_by(name),
                "settings": ", ".join(field.alias or key for key, field in fields) or "none",
            }
        )
    return rows


def _given_by(name: str) -> str:
    """Results that a step records with its default settings."""
    from ...protocols.steps.registry import default_outputs

    specs = default_outputs(name)
    return ", ".join(spec.name for spec in specs if spec.recorded) or "depends on its settings"


def _show(rows: Sequence[dict[str, str]], columns: Sequence[str], as_json: bool) -> None:
    """Print rows as a table, or as JSON."""
    from rich.table import Table

    if as_json:
        print_json(rows)
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(row.get(column, "") for column in columns))
    output_console().print(table)
