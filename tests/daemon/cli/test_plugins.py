"""Commands of other packages are added; what cannot be loaded is reported and left out."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import typer

from pyrotome.daemon.cli import plugins


def names(app: typer.Typer) -> set[str]:
    return {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    found: list[EntryPoint] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)
    return found


def test_commands_of_an_entry_point_are_added(entries: list[EntryPoint]) -> None:
    value = "pyrotome.analysis.commands.app:commands"
    entries.append(EntryPoint("kitchen", value, plugins.GROUP))
    app, warnings = typer.Typer(), list[str]()
    plugins.add_commands(app, warnings.append)
    assert names(app) == {
        "import", "process", "atoms", "structure", "spectra", "calibrate-pixel", "export"
    }  # fmt: skip
    assert warnings == []


@pytest.mark.parametrize(
    ("value", "why"),
    [("no_such_module:app", "No module named"), ("json:loads", "json:loads is not a typer.Typer")],
)
def test_what_cannot_be_loaded_is_reported(entries: list[EntryPoint], value: str, why: str) -> None:
    entries.append(EntryPoint("broken", value, plugins.GROUP))
    app, warnings = typer.Typer(), list[str]()
    plugins.add_commands(app, warnings.append)
    assert names(app) == set()
    (text,) = warnings
    assert "'broken' cannot be loaded" in text
    assert why in text


def test_import_process_and_export_are_installed() -> None:
    app, warnings = typer.Typer(), list[str]()
    plugins.add_commands(app, warnings.append)
    assert {"import", "process", "export"} <= names(app)
    assert warnings == []
