"""What every test gets: nothing may be left running, and where the measured data are."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from hypothesis import settings

# How long an example takes is the computer's business; a clean build tries the same ones each time.
settings.register_profile("untimed", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
CASES = ROOT.parent / "shared" / "cases"
# Threads that libraries start once and keep, by the beginning of their names or by their class.
_LIBRARY_THREADS = ("asyncio_", "ThreadPoolExecutor", "pydevd")
_LIBRARY_CLASSES = {"GarbageCollectorThread"}
_GRACE_S = 3.0


def _ours() -> set[threading.Thread]:
    return {
        thread
        for thread in threading.enumerate()
        if thread.is_alive()
        and not thread.name.startswith(_LIBRARY_THREADS)
        and type(thread).__name__ not in _LIBRARY_CLASSES
    }


def _children() -> set[int]:
    # Our own alone: a daemon that tests share starts and ends processes as its runs need them.
    found: set[int] = set()
    for child in psutil.Process().children():
        try:
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process behind."""
    threads, children = _ours(), _children()
    yield
    end = time.monotonic() + _GRACE_S
    while (left := (_ours() - threads, _children() - children)) != (set(), set()):
        if time.monotonic() > end:
            pytest.fail(f"left running: threads {left[0]}, child processes {left[1]}")
        time.sleep(0.02)


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    """Fail a test that leaves an asyncio task behind."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    left = {t for t in asyncio.all_tasks() - before if not t.done()} - {asyncio.current_task()}
    if left:
        pytest.fail(f"left running: {[t.get_name() for t in left]}")


# Fixtures that start a program that is not ours.
_FOREIGN = {"broker", "foreign", "libertem_merlin", "temscript_server"}


# The folder of tests that break things on purpose, again and again: ``make trust``.
_TRUST = Path(__file__).parent / "trust"
# Of one such test, on a computer that is busy with other work.
_TRUST_TIMEOUT_S = 1200.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests against programs that are not ours, and those that break things."""
    for item in items:
        if _TRUST in item.path.parents:
            item.add_marker("trust")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_TRUST_TIMEOUT_S))
        if _FOREIGN & set(getattr(item, "fixturenames", ())):
            item.add_marker("interop")


@pytest.fixture(scope="session")
def foreign() -> ModuleType:
    """The module ``foreign_programs.py``: starts programs that are not ours."""
    return importlib.import_module("foreign_programs")


@pytest.fixture(scope="session")
def pictures() -> ModuleType:
    """The module ``foreign_pictures.py``: what programs of others see of our moves."""
    return importlib.import_module("foreign_pictures")


@pytest.fixture(scope="session")
def commands() -> ModuleType:
    """The module ``command_line.py``: the command line, small recipes, a simulated rig."""
    return importlib.import_module("command_line")


@pytest.fixture
def cli(commands: ModuleType, tmp_path: Path) -> Iterator[Any]:
    """The command line, run in a folder of the test's own."""
    cli = commands.Cli(tmp_path)
    yield cli
    cli.close()


@pytest.fixture
def measured_data() -> Path:
    """The folder of measured data; skips where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"the measured data are not at {DATA.relative_to(ROOT.parent)}")
    return DATA


@pytest.fixture
def shared_cases() -> Path:
    """The folder of small inputs that once went wrong; skips where it is absent."""
    if not CASES.is_dir():
        pytest.skip(f"the cases are not at {CASES.relative_to(ROOT.parent)}")
    return CASES


# Rows of the fault catalogue. The main process of pytest-xdist prints them; it loads this file
# and no other conftest.py.
_rows: list[dict[str, object]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the rows whose test has passed."""
    if report.when == "teardown" and report.passed:
        _rows.extend(value for name, value in report.user_properties if name == "fault")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the fault catalogue."""
    if not _rows:
        return
    terminalreporter.section(f"fault catalogue, {len(_rows)} rows")
    for row in _rows:
        took = row["took_s"]
        shown = f"{took:6.2f} s" if isinstance(took, float) else "       –"
        terminalreporter.write_line(
            f"{shown} of {row['within_s']:>4g} s  {row['broken']}  ->  {row['must']}"
        )
