"""R(T) and its inverse, files that are none, and which readings are plausible."""

import json

import numpy as np
import pytest
import scipy.interpolate  # noqa: F401  else loaded at first use, within hypothesis' deadline
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pyrotome.protocols.config.calibration import ChipCalibration, OutOfCalibration
from pyrotome.protocols.config.calibration_file import (
    load_calibration,
    parse_calibration_csv,
    parse_calibration_json,
)
from pyrotome.protocols.config.simulated import SimulatedChip
from pyrotome.protocols.core.errors import BadInput
from pyrotome.simulators.world import chip as simulated
from pyrotome.simulators.world.chip import Chip, holding_power_w, resistance_ohm

S = 1_000_000_000
TRUE = {
    "chip": "A-17",
    "resistance": {
        "kind": "polynomial",
        "r0_ohm": simulated.R0_OHM,
        "alpha_per_k": simulated.ALPHA_PER_K,
        "beta_per_k2": simulated.BETA_PER_K2,
        "range_c": [-20, 1300],
    },
    "power": {
        "kind": "balance",
        "conductance_w_per_k": simulated.CONDUCTANCE_W_PER_K,
        "radiation_w_per_k4": simulated.RADIATION_W_PER_K4,
    },
}


def wrong_by(fraction):
    """The file of a chip whose true resistance is so much above what it says."""
    r0 = TRUE["resistance"]["r0_ohm"] / (1.0 + fraction)
    return ChipCalibration.model_validate(
        {**TRUE, "resistance": {**TRUE["resistance"], "r0_ohm": r0}}
    )


@pytest.fixture
def right():
    return ChipCalibration.model_validate(TRUE)


constants = st.builds(
    dict,
    r0_ohm=st.floats(10, 1000),
    alpha_per_k=st.floats(5e-4, 6e-3),
    beta_per_k2=st.floats(-1e-6, 1e-6),
    reference_c=st.floats(0, 50),
)


@given(constants, st.floats(0, 1))
def test_polynomial_is_inverted_exactly(values, place):
    high_c = 1200.0
    top = values["alpha_per_k"] + 2 * values["beta_per_k2"] * (high_c - values["reference_c"])
    bottom = values["alpha_per_k"] + 2 * values["beta_per_k2"] * (-values["reference_c"])
    assume(min(top, bottom) > 1e-4)
    found = ChipCalibration.model_validate(
        {"chip": "x", "resistance": {"kind": "polynomial", "range_c": [0, high_c], **values}}
    )
    temperature_c = place * high_c
    resistance = found.resistance_ohm(temperature_c)
    assert found.temperature_c(resistance) == pytest.approx(temperature_c, abs=1e-6)


rising = st.lists(st.floats(0.1, 100), min_size=2, max_size=12).map(
    lambda steps: list(np.cumsum(steps))
)


@given(rising, rising, st.floats(0, 1))
@example(  # the sum that gives the last resistance is a bit too large
    list(np.cumsum([1.0] * 6)),
    list(np.cumsum([1.652729805065718, 1.0, 1.0, 55.0, 99.32128859717037, 99.69789668111916])),
    1.0,
)
def test_table_is_monotone_and_inverted(temperatures, resistances, place):
    count = min(len(temperatures), len(resistances))
    table = {
        "kind": "table",
        "temperature_c": temperatures[:count],
        "resistance_ohm": resistances[:count],
    }
    low_c, high_c = temperatures[0], temperatures[count - 1]
    found = ChipCalibration.model_validate({"chip": "x", "resistance": table, "ambient_c": low_c})
    for t, r in zip(temperatures[:count], resistances[:count], strict=True):
        assert found.resistance_ohm(t) == pytest.approx(r)
    at = np.linspace(low_c, high_c, 50)
    values = [found.resistance_ohm(t) for t in at]
    assert np.all(np.diff(values) >= -1e-9)
    resistance = values[0] + place * (values[-1] - values[0])
    back = found.resistance_ohm(found.temperature_c(resistance))
    assert back == pytest.approx(resistance, rel=1e-6, abs=1e-6)


def test_table_of_a_chip_comes_near_its_polynomial(right):
    at = list(range(-20, 1301, 60))
    table = {"kind": "table", "temperature_c": at,
             "resistance_ohm": [right.resistance_ohm(t) for t in at]}  # fmt: skip
    power = {"kind": "table", "temperature_c": at, "power_w": [holding_power_w(t) for t in at]}
    found = ChipCalibration.model_validate({"chip": "x", "resistance": table, "power": power})
    for t in range(-20, 1300, 7):
        assert found.temperature_c(right.resistance_ohm(t)) == pytest.approx(t, abs=0.05)
        assert found.holding_power_w(t) == pytest.approx(holding_power_w(t), abs=2e-5)


def test_outside_is_refused_with_the_range(right):
    with pytest.raises(OutOfCalibration, match=r"700 ohm is outside .*A-17.*\(-20 to 1300 degC\)"):
        right.temperature_c(700.0)
    with pytest.raises(OutOfCalibration, match=r"1301 degC is outside .* from -20 to 1300 degC"):
        right.resistance_ohm(1301.0)
    for value in (float("nan"), float("inf"), -1.0):
        with pytest.raises(OutOfCalibration):
            right.temperature_c(value)
    assert not right.check_steady(700.0, 0.01).plausible
    assert not right.check_cold(100.0).plausible


# Plausibility on the simulated chip.


def at_rest(temperature_c):
    """Resistance and power of the chip when a current has held it at a temperature."""
    chip = Chip(SimulatedChip(), 0)
    power = holding_power_w(temperature_c)
    chip.drive((power / resistance_ohm(temperature_c)) ** 0.5, 20.0)
    chip.advance_to(2 * S)
    assert chip.temperature_c == pytest.approx(temperature_c, abs=0.1)
    return resistance_ohm(chip.temperature_c), power


@pytest.mark.parametrize("temperature_c", [100, 200, 350, 500, 700, 900, 1100, 1250])
def test_one_percent_in_resistance_shows_hot(temperature_c, right):
    resistance, power = at_rest(temperature_c)
    assert right.check_steady(resistance, power).plausible
    assert abs(right.check_steady(resistance, power).deviation) < 0.1
    for fraction in (0.01, -0.01):
        verdict = wrong_by(fraction).check_steady(resistance, power)
        assert not verdict.plausible
        assert verdict.deviation * -fraction > 0  # R above the file: it reads too hot
        assert "do not belong together" in verdict.reason
    # The limits of the method, at both ends: a third of that is not seen.
    assert wrong_by(0.003).check_steady(resistance, power).plausible


@pytest.mark.parametrize("ambient_c", [24.2, 25.0, 25.8])
def test_one_percent_in_resistance_shows_cold(ambient_c, right):
    resistance = resistance_ohm(ambient_c + 1.0)  # the measurement warms it by a degree
    power = simulated.CONDUCTANCE_W_PER_K * 1.0
    assert right.check_cold(resistance, power).plausible
    for fraction in (0.01, -0.01):
        verdict = wrong_by(fraction).check_cold(resistance, power)
        assert not verdict.plausible
        assert "% in resistance from the calibration of chip A-17" in verdict.reason


def test_without_power_only_the_cold_is_judged():
    found = ChipCalibration.model_validate({k: v for k, v in TRUE.items() if k != "power"})
    assert found.check_steady(250.0, 0.5).plausible
    assert not found.check_cold(160.0).plausible


# Files.


def test_json_and_csv_files(tmp_path, right):
    path = tmp_path / "chip.json"
    path.write_text(json.dumps(TRUE))
    assert load_calibration(path) == right
    path = tmp_path / "B-2.csv"
    rows = "".join(f"{t},{right.resistance_ohm(t)},{holding_power_w(t)}\n" for t in (0, 25, 500))
    path.write_text(
        "# ambient_c: 24\n# made: yesterday\ntemperature_c,resistance_ohm,power_w\n" + rows
    )
    found = load_calibration(path)
    assert (found.chip, found.ambient_c, found.range_c) == ("B-2", 24.0, (0.0, 500.0))
    assert found.holding_power_w(500) == pytest.approx(holding_power_w(500))


def changed(**changes):
    return json.dumps({**TRUE, **changes})


def resistance(**changes):
    return changed(resistance={**TRUE["resistance"], **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.json:1: is not valid JSON"),
        ("[]", "should be a JSON object with the keys chip"),
        ('{"chip": 1, "chip": 2}', "'chip' is written twice"),
        ("[" * 100_000, "is not valid JSON"),
        (changed(colour=1), "colour: unknown key"),
        ("{}", "resistance: required key is missing"),
        (changed(ambient_c=2000), "ambient_c 2000 is outside the range"),
        (resistance(range_c=[500, 25]), r"\[lowest, highest\]"),
        (resistance(beta_per_k2=-1e-5), "does not rise.*at 1300 degC"),
        (resistance(alpha_per_k=-1e-3), "resistance.alpha_per_k.*greater than 0"),
        (resistance(r0_ohm="NaN"), "r0_ohm"),
        (changed(resistance={"kind": "spline"}), "polynomial"),
        (changed(power={"kind": "balance", "conductance_w_per_k": 0}), "conductance_w_per_k"),
    ],
)  # fmt: skip
def test_json_that_is_no_calibration(text, message):
    with pytest.raises(BadInput, match=message):
        parse_calibration_json(text, "c.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line should read temperature_c,resistance_ohm"),
        ("T,R\n1,2\n", "c.csv:1: the first line should read"),
        ("temperature_c,resistance_ohm\n20,100\n25\n", "c.csv:3: 1 values; 2 are needed"),
        ("temperature_c,resistance_ohm\n20,100\n25,x\n", "c.csv:3: resistance_ohm: 'x' is not a"),
        ("temperature_c,resistance_ohm\n20,100\n", "at least 2 items"),
        (
            "temperature_c,resistance_ohm\n20,100\n30,99\n",
            "resistance_ohm must rise.*99 follows 100",
        ),
        ("temperature_c,resistance_ohm\n20,100\n20,101\n", "temperature_c must rise"),
        ("temperature_c,resistance_ohm\n20,100\n30,nan\n", "resistance_ohm"),
    ],
)
def test_csv_that_is_no_calibration(text, message):
    with pytest.raises(BadInput, match=message):
        parse_calibration_csv(text, "c.csv")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        load_calibration(tmp_path / "none.json")
    with pytest.raises(BadInput, match="cannot be read"):
        load_calibration(tmp_path)
    binary = tmp_path / "b.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not text"):
        load_calibration(binary)


@given(st.text(max_size=300))
def test_nothing_else_is_raised(text):
    for parse in (parse_calibration_json, parse_calibration_csv):
        with pytest.raises(BadInput):
            parse(text, "c")
