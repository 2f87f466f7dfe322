"""Each promise of docs/reference/promises.md names tests that exist."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "promises.md").read_text()
TEST_FILES = sorted((ROOT / "tests").rglob("test_*.py"))
FILE_NAMES = {path.name for path in TEST_FILES}
FUNCTIONS = {
    name
    for path in TEST_FILES
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
}
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "| promise |" not in line]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:50])
def test_a_promise_names_its_test(row: str) -> None:
    cells = row.strip("| ").split(" | ")
    assert len(cells) == 3
    assert re.search(r"`(\*?tests/|test_|make )", cells[2]), "no test is named"


def test_every_test_that_is_named_exists() -> None:
    for name in re.findall(r"`\*?(tests/[\w./]+)`", PAGE):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(test_[\w.*…]+)`", PAGE):
        pattern = name.replace("…", "*")
        known = FILE_NAMES if name.endswith(".py") else FUNCTIONS
        assert any(fnmatch(found, pattern) for found in known), name


def test_files_that_break_things_are_marked() -> None:
    for star, name in re.findall(r"`(\*?)(tests/[\w./]+)`", PAGE):
        if name != "tests/trust/chaos/chaos.py":  # which make chaos runs
            assert bool(star) == name.startswith("tests/trust/"), name
