"""Some seconds of what ``make fuzz`` does: recipes, rigs, journals, files, a live daemon."""

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def campaign():
    spec = importlib.util.spec_from_file_location("campaign", HERE / "campaign.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["campaign"] = module
    spec.loader.exec_module(module)
    module.load("fuzz_of_wires", HERE.parent / "protocols" / "test_fuzz.py")
    return module


@pytest.mark.parametrize(
    ("name", "count"), [("recipe", 150), ("rig", 150), ("quantity", 5000), ("journal", 3000)]
)
def test_what_people_write(campaign, name, count):
    found = campaign.fuzz(name, count)
    print(found.line())
    assert found.findings == []
    assert found.inputs >= count


def test_damaged_files(campaign):
    found = campaign.load("fuzz_of_files", HERE / "files.py").fuzz_files(120, 1)
    print(found.line())
    assert found.findings == []
    assert found.inputs == 120
    assert 0 < found.refused < 120


def test_live_control(campaign):
    found = campaign.load("fuzz_live", HERE / "live.py").fuzz_live(300, 1)
    print(found.line())
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
def test_a_unit_is_no_calculator(campaign, text, said):
    with pytest.raises(ValueError, match=said):
        campaign.parse_quantity(text, "s", "5 s")
