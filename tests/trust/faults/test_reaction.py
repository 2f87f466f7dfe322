"""The measure of the fault catalogue: a row that is late, or that measures nothing, fails."""

from __future__ import annotations

import pytest
from reaction import Reaction


def test_a_row_that_is_late_fails() -> None:
    reaction = Reaction(within_s=1.0)
    reaction.begins()
    reaction.ends(0.9)
    reaction.check_ended()
    with pytest.raises(AssertionError, match=r"1\.10 s, at most 1 s"):
        reaction.ends(1.1)


def test_a_row_that_measures_nothing_fails() -> None:
    reaction = Reaction(within_s=1.0)
    with pytest.raises(AssertionError, match="begins"):
        reaction.ends()
    reaction.begins()
    with pytest.raises(pytest.fail.Exception, match=r"call reaction\.ends"):
        reaction.check_ended()
