"""An installed package has every folder of the house."""

from __future__ import annotations

import tomllib
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[1]
FLOORS = ("analysis", "daemon", "drivers", "protocols", "simulators")


def test_every_folder_with_code_is_installed() -> None:
    listed = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        ".".join(("pyrotome", *path.parent.relative_to(HOUSE).parts))
        for floor in FLOORS
        for path in (HOUSE / floor).rglob("*.py")
    }
    assert folders <= set(listed)
    assert len(listed) == len(set(listed))
