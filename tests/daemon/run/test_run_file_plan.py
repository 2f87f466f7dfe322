"""Where a new run file goes: never over another, and beside no journal of another run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyrotome.daemon.resume.run_journal import journal_path
from pyrotome.daemon.run.run_file_plan import new_output
from pyrotome.protocols.core.errors import BadInput


def test_without_a_path_the_title_is_the_name_and_a_number_keeps_it_free(tmp_path: Path) -> None:
    title = "Sintering of Cu, 350 °C"
    names = []
    for _ in range(3):
        path = new_output(None, title, lambda: tmp_path)
        names.append(path.name)
        path.touch()
    assert names == [f"sintering_of_cu__350__c{end}.nxs" for end in ("", "-2", "-3")]
    journal_path(tmp_path / "sintering_of_cu__350__c-4.nxs").touch()
    assert new_output(None, title, lambda: tmp_path).name.endswith("-5.nxs")
    assert new_output(None, "!?", lambda: tmp_path).name == "run.nxs"


def test_a_path_is_refused_where_something_is_or_cannot_be(tmp_path: Path) -> None:
    free = tmp_path / "run.nxs"
    assert new_output(free, "title") == free
    journal_path(free).touch()
    with pytest.raises(BadInput, match="the journal of an interrupted run"):
        new_output(free, "title")
    free.touch()
    with pytest.raises(BadInput, match="exists already; nothing is overwritten"):
        new_output(free, "title")
    with pytest.raises(BadInput, match="its folder does not exist"):
        new_output(tmp_path / "none" / "run.nxs", "title")
