"""Time that one line of a run's journal takes, beside Python's own log file and SQLite.

A line is written before each exposure, so that the journal knows of every exposure when a process
dies. All three hand each line to the kernel before they return, and none waits for the disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pyrotome.daemon.resume.run_journal import RunJournal
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.journal import Trigger, line_of

LINES = 5000


def entry(index: int) -> Trigger:
    return Trigger(stack="series_001", first=index, count=1, dose_e_per_nm2=0.5)


def measure_us(write: Callable[[int], None]) -> tuple[float, float]:
    """Median and 99th percentile of the time of one line, microseconds."""
    took_us: list[float] = []
    for index in range(LINES):
        started_ns = time.perf_counter_ns()
        write(index)
        took_us.append((time.perf_counter_ns() - started_ns) * 1e-3)
    return statistics.median(took_us), statistics.quantiles(took_us, n=100)[98]


async def measure_journal(folder: Path) -> tuple[float, float]:
    journal = RunJournal(folder / "run.nxs", ExperimentClock(), lambda *_: None)
    figures = measure_us(lambda index: journal.note(entry(index)))
    await journal.close(remove=False)
    return figures


def measure_logging(folder: Path) -> tuple[float, float]:
    logger = logging.Logger("journal")
    handler = logging.FileHandler(folder / "run.log")
    logger.addHandler(handler)
    figures = measure_us(lambda index: logger.info(line_of(index, entry(index)).decode().rstrip()))
    handler.close()
    return figures


def measure_sqlite(folder: Path) -> tuple[float, float]:
    base = sqlite3.connect(folder / "run.sqlite", isolation_level=None)
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("PRAGMA synchronous = OFF")
    base.execute("CREATE TABLE lines (line TEXT)")

    def write(index: int) -> None:
        base.execute("INSERT INTO lines VALUES (?)", (line_of(index, entry(index)),))

    figures = measure_us(write)
    base.close()
    return figures


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {
            "journal": asyncio.run(measure_journal(folder)),
            "logging.FileHandler": measure_logging(folder),
            "sqlite3, WAL": measure_sqlite(folder),
        }
    print(f"one line of {LINES}            median  99th percentile")
    for what, (median_us, most_us) in rows.items():
        print(f"  {what:22} {median_us:7.1f} us {most_us:12.1f} us")


if __name__ == "__main__":
    main()
