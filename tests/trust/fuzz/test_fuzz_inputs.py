"""Some seconds of what ``make fuzz`` does: recipes, rigs, journals, files, a live daemon."""

import pytest
from campaign import fuzz
from fuzz_files import fuzz_files
from fuzz_live import fuzz_live

from pyrotome.protocols.core.units import parse_quantity


@pytest.mark.parametrize(
    ("name", "count"), [("recipe", 150), ("rig", 150), ("quantity", 5000), ("journal", 3000)]
)
def test_wrong_recipes_rigs_and_quantities(name, count):
    found = fuzz(name, count)
    assert found.findings == []
    assert found.inputs >= count


def test_damaged_files():
    found = fuzz_files(120, 1)
    assert found.findings == []
    assert found.inputs == 120
    assert 0 < found.refused < 120


def test_live_control():
    found = fuzz_live(300, 1)
    assert found.findings == []
    assert found.refused > 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("9" * 5000 + "*** s", r"got 5005 characters"),
        ("1dB\ufffdT\x16", "not a unit known here"),
        ("1 s**99**99**99", "not a unit known here"),
        ("2**10**10 s", "not a unit known here"),
        ("1 (9**99)**99 s", "not a unit known here"),
        ("5 " + "s*" * 5000 + "s", r"got 10003 characters"),
    ],
)
def test_a_unit_is_not_calculated(text, said):
    with pytest.raises(ValueError, match=said):
        parse_quantity(text, "s", "5 s")
