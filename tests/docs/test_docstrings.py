"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import pyrotome

HOUSE = Path(pyrotome.__file__).parent
FLOORS = ("analysis", "daemon", "drivers", "protocols", "simulators")
MODULES = sorted(
    ".".join(("pyrotome", *path.relative_to(HOUSE).with_suffix("").parts))
    for floor in FLOORS
    for path in (HOUSE / floor).rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    found = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert found, "the file has examples that are not in a docstring"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for test in found:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
