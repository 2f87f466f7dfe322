"""What a rig says of its simulated instruments: ideal ones, real ones, and what stands beside."""

import pytest

from pyrotome.protocols.config.rig import Rig, simulated_rig
from pyrotome.protocols.config.simulated import (
    SimulatedChip,
    SimulatedColumn,
    SimulatedGoniometer,
    SimulatorRig,
)
from pyrotome.protocols.core.documents import load_model
from pyrotome.protocols.core.errors import BadInput

REAL = {part: {"ideal": False} for part in ("chip", "goniometer", "column")}


def test_the_errors_of_an_ideal_instrument_are_small():
    rig = SimulatorRig()
    stage, chip, column = rig.goniometer, rig.chip, rig.column
    assert stage.height_nm == stage.jitter_nm == stage.slips == stage.xy_backlash_nm == 0
    assert chip.bulge_nm_per_k == chip.drift_nm_per_s == 0
    assert column.shift_limit_nm is None
    assert not column.rolling


def test_those_of_a_real_one_are_what_is_not_written():
    stage = SimulatedGoniometer.model_validate({"ideal": False, "jitter": "20 nm"})
    assert (stage.height_nm, stage.jitter_nm, stage.slips) == (2000.0, 20.0, 0.005)
    assert SimulatedGoniometer.model_validate({"ideal": False, "height_nm": "1 nm"}).height_nm == 1
    chip = SimulatedChip.model_validate({"ideal": False})
    assert (chip.bulge_nm_per_k, chip.drift_nm_per_s, chip.drift_decay_s) == (8.0, 5.0, 60.0)
    column = SimulatedColumn.model_validate({"ideal": False, "shift_limit": "3 um"})
    assert column.shift_limit_nm == pytest.approx(3000.0)
    assert column.rolling


def test_what_is_written_holds_for_an_ideal_one_too():
    stage = SimulatedGoniometer.model_validate({"height": "1 um"})
    assert (stage.height_nm, stage.jitter_nm) == (pytest.approx(1000.0), 0.0)


def test_a_process_that_is_told_in_json_has_the_same():
    rig = simulated_rig().model_copy(update={"simulator": SimulatorRig.model_validate(REAL)})
    assert Rig.model_validate_json(rig.model_dump_json(by_alias=True)) == rig


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("goniometer: {height: 2}", "has no unit"),
        ("goniometer: {ideal: maybe}", "ideal"),
        ("goniometer: {heigth: 2 um}", "did you mean 'height'"),
        ("column: {shift_matrix: [[1, 2], [2, 4]]}", "along one line"),
        ("column: {shift_matrix: [[1, 2]]}", "shift_matrix"),
        ("chip: {bulge: 8 nm}", "wrong dimension"),
        ("chip: {drift: 5 nm}", "wrong dimension"),
    ],
)
def test_what_is_wrong_is_said(text, problem):
    with pytest.raises(BadInput, match=problem):
        load_model(SimulatorRig, text, "rig.yaml")
