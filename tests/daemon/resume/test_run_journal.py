"""The journal of a run: what was noted survives a kill, a full disk, and a torn line."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_lines import lines_of

from pyrotome.daemon.resume import run_journal as journal_module
from pyrotome.daemon.resume.run_journal import RunJournal, journal_path, read_journal
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.journal import (
    BadLine,
    Begun,
    Carried,
    Chosen,
    Ended,
    Entry,
    MadeSafe,
    Measured,
    Moment,
    Necks,
    Noted,
    RunLine,
    Trigger,
    line_of,
    parse_journal,
    parse_line,
)

moments = st.integers(0, (1 << 63) - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=30)
entries = st.one_of(
    st.builds(Begun, index=st.integers(0, 10_000)),
    st.builds(Ended, index=st.integers(0, 10_000), next=st.integers(0, 10_000)),
    st.builds(Moment, what=st.sampled_from(["reached", "crossed_up"]), at_ns=moments),
    st.builds(
        Trigger,
        stack=texts,
        first=st.integers(0, 10**6),
        count=st.integers(0, 10**6),
        dose_e_per_nm2=st.floats(0, allow_infinity=False),
    ),
    st.builds(
        Measured,
        series=texts,
        quantity=texts,
        statistic=st.sampled_from(["median", "std"]),
        value=st.none() | st.floats(-1e9, 1e9),
        error=st.none() | st.floats(0, 1e9),
        count=st.integers(0, 1000),
        keys=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=3).map(tuple),
        values=st.lists(st.floats(-1e9, 1e9), max_size=3).map(tuple),
    ),
    st.builds(
        Chosen,
        hold=st.integers(0, 10_000),
        hold_s=st.floats(0, 1e6),
        temperature_c=st.floats(-100, 2000),
    ),
    st.builds(Necks, series=texts, ratio=st.none() | st.floats(-1e9, 1e9)),
    st.builds(
        MadeSafe,
        kind=st.sampled_from(["safed", "guardian"]),
        beam_blanked_ns=st.none() | moments,
    ),
    st.builds(
        RunLine,
        run=texts,
        resumed=st.integers(0, 9),
        carried=st.none() | st.builds(Carried, index=st.integers(0, 9), done_s=st.floats(0, 1e9)),
    ),
)  # fmt: skip
journals = st.lists(st.builds(Noted, moments, entries), max_size=20)


@given(journals)
def test_what_is_written_is_read(written: list[Noted]) -> None:
    assert parse_journal(lines_of(written)) == (written, [])


@given(journals, st.integers(0, 3000))
def test_a_journal_that_was_cut_anywhere_gives_the_whole_lines_before(
    written: list[Noted], at: int
) -> None:
    found, damaged = parse_journal(lines_of(written)[:at])
    assert damaged == []
    assert found == written[: len(found)]


@given(journals, st.integers(0, 5000), st.binary(min_size=1, max_size=5))
def test_damage_in_the_middle_is_told_and_costs_its_lines_alone(
    written: list[Noted], at: int, damage: bytes
) -> None:
    raw = bytearray(lines_of(written))
    raw[at : at + len(damage)] = damage[: max(0, len(raw) - at)]
    found, damaged = parse_journal(bytes(raw))
    assert len(found) + len(damaged) >= len(written) - 2
    touched = len(damaged) + 2 + damage.count(b"\n") + len(damage)
    assert sum(noted in written for noted in found) >= len(written) - touched


def test_lines_of_others_are_passed_over() -> None:
    raw = b'{"kind": "weather", "t_ns": 5, "rain": true}\n' + line_of(6, Begun(index=1))
    assert parse_journal(raw) == ([Noted(6, Begun(index=1))], [])
    guardian = b'{"kind": "guardian", "t_ns": 7, "heater_safe_ns": 9, "pid": 12, "took_s": 0.2}'
    assert parse_line(guardian) == Noted(7, MadeSafe(kind="guardian", heater_safe_ns=9))


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"[" * 50_000, "not JSON"),
        (b'{"kind": "begun", "index": 1}', "no t_ns"),
        (b'{"kind": "begun", "t_ns": 1.5, "index": 1}', "no t_ns"),
        (b'{"kind": "begun", "t_ns": 99999999999999999999, "index": 1}', "no t_ns"),
        (b'{"kind": "begun", "t_ns": 1}', "index: Field required"),
        (b'{"kind": "begun", "t_ns": 1, "index": -1}', "index: "),
        (
            b'{"kind":"trigger","t_ns":1,"stack":"s","first":0,"count":1,"dose_e_per_nm2":NaN}',
            "dose_e_per_nm2: ",
        ),
        (b"x" * 200_000, "has 200000 bytes"),
    ],
)
def test_a_line_that_is_none_says_why(raw: bytes, problem: str) -> None:
    with pytest.raises(BadLine, match=problem):
        parse_line(raw)


class Told:
    """A journal, and what it has told."""

    def __init__(self, folder: Path, resumed: bool = False) -> None:
        self.file = folder / "run.nxs"
        self.events: list[str] = []
        self.journal = RunJournal(
            self.file, ExperimentClock(), lambda level, text: self.events.append(level), resumed
        )

    def read(self) -> list[Entry]:
        return [noted.entry for noted in read_journal(self.file)[0]]


async def test_a_journal_is_kept_until_its_run_is_complete(tmp_path: Path) -> None:
    told = Told(tmp_path)
    assert told.journal.path.name == "run.nxs.journal"
    told.journal.note(Begun(index=0))
    told.journal.save()
    assert told.read() == [Begun(index=0)]
    await told.journal.close(remove=False)
    with pytest.raises(FileExistsError):
        Told(tmp_path)
    again = Told(tmp_path, resumed=True)
    again.journal.note(Begun(index=1))
    assert again.read() == [Begun(index=0), Begun(index=1)]
    await again.journal.close(remove=True)
    assert not journal_path(told.file).exists()


async def test_a_torn_line_does_not_spoil_the_one_that_follows(tmp_path: Path) -> None:
    path = journal_path(tmp_path / "run.nxs")
    path.write_bytes(line_of(1, Begun(index=0)) + line_of(2, Begun(index=1))[:-9])
    told = Told(tmp_path, resumed=True)
    told.journal.note(Begun(index=2))
    found, damaged = read_journal(told.file)
    assert [noted.entry for noted in found] == [Begun(index=0), Begun(index=2)]
    assert damaged == ["line 2 is not JSON"]
    await told.journal.close(remove=False)


async def test_a_disk_that_refuses_is_waited_for_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(tmp_path)
    room = 30

    def write(file: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        data = data[:room]
        room -= len(data)
        return real(file, data)

    real = os.write
    monkeypatch.setattr(journal_module.os, "write", write)
    monkeypatch.setattr(journal_module, "RETRY_S", 0.02)
    for index in range(3):
        told.journal.note(Begun(index=index))
    assert told.events == ["error"]
    assert told.read() == [], "the first line is torn, and so it is not counted"
    waiting = asyncio.create_task(told.journal.caught_up())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    room = 10_000
    await asyncio.wait_for(waiting, 60)
    assert told.read() == [Begun(index=k) for k in range(3)]
    assert told.events == ["error", "warning"]
    await told.journal.close(remove=False)


WRITER = """
import sys
from pathlib import Path
from pyrotome.daemon.resume.run_journal import RunJournal
from pyrotome.protocols.messages.journal import Trigger
from pyrotome.protocols.core.clock import ExperimentClock
journal = RunJournal(Path(sys.argv[1]), ExperimentClock(), print)
for index in range(10**7):
    journal.note(Trigger(stack="series_001", first=index, count=1, dose_e_per_nm2=0.5))
    sys.stdout.write(f"{index}\\n")
    sys.stdout.flush()
"""


def test_every_line_that_was_noted_survives_a_kill(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "run.nxs")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    last = -1
    for _ in range(2000):
        last = int(process.stdout.readline())
    process.kill()
    rest = process.stdout.read()
    process.stdout.close()
    process.wait()
    last = max([last, *(int(line) for line in rest.split(b"\n")[:-1])])
    found, damaged = read_journal(tmp_path / "run.nxs")
    assert damaged == []
    assert len(found) > last


async def test_a_line_is_in_the_file_as_soon_as_it_is_noted(tmp_path: Path) -> None:
    told = Told(tmp_path)
    for index in range(20):
        told.journal.note(Trigger(stack="series_001", first=index, count=1, dose_e_per_nm2=0.5))
        assert told.journal.path.read_bytes().count(b"\n") == index + 1
    await told.journal.close(remove=False)


def test_unreadable_ratios_are_read_as_unknown() -> None:
    raw: Any = line_of(1, Necks(series="s", ratio=float("nan")))
    assert parse_line(raw) == Noted(1, Necks(series="s", ratio=None))
