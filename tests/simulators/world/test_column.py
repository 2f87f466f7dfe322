"""The column: dose accounting and the blanker in mid-scan."""

import numpy as np
import pytest

from pyrotome.protocols.config.simulated import SimulatedColumn
from pyrotome.simulators.world.column import ElectronColumn

S = 1_000_000_000
PER_PA_S = 1e-12 / 1.602176634e-19


def test_starts_blanked_at_2_pa_over_the_field_of_the_paper():
    column = ElectronColumn(SimulatedColumn(), 0)
    assert column.blanked
    assert column.current_pa == pytest.approx(2.0)
    assert column.field_nm == pytest.approx(1024 * 1.04)
    column.set_spot_size(3)
    column.set_intensity(0.25)
    assert column.current_pa == pytest.approx(4.0)
    for refused in (
        lambda: column.set_spot_size(12),
        lambda: column.set_intensity(0.0),
        lambda: column.set_intensity(float("nan")),
        lambda: column.set_magnification(-1.0),
    ):
        with pytest.raises(ValueError, match=r"not within|not one of"):
            refused()


def test_electrons_are_counted_inside_and_outside_exposures():
    column = ElectronColumn(SimulatedColumn(), 0)
    per_s = 2.0 * PER_PA_S / (1024 * 1.04) ** 2
    column.advance_to(5 * S)
    column.set_blanked(False)
    column.advance_to(6 * S)
    column.begin_scan(8 * S, 1.0)
    # One long step across the end of the scan is split there.
    column.advance_to(11 * S)
    column.set_blanked(True)
    column.advance_to(100 * S)
    assert column.dose.unblanked_in_exposures_s == pytest.approx(2.0)
    assert column.dose.unblanked_outside_s == pytest.approx(4.0)
    assert column.dose.total_e_per_nm2 == pytest.approx(6.0 * per_s)
    assert column.dose.exposed_e_per_nm2 == pytest.approx(2.0 * per_s)


def test_blanking_in_mid_scan_leaves_later_rows_dark():
    column = ElectronColumn(SimulatedColumn(), 0)
    column.set_blanked(False)
    column.advance_to(S)
    column.set_blanked(True)
    column.advance_to(2 * S)
    on = column.beam_on(0, 4 * S, 10)
    np.testing.assert_allclose(on, [1, 1, 0.5, 0, 0, 0, 0, 0, 0, 0])
    column.set_blanked(False)
    on = column.beam_on(0, 4 * S, 8)
    np.testing.assert_allclose(on, [1, 1, 0, 0, 1, 1, 1, 1])
    assert column.beam_on(3 * S, 4 * S, 4).tolist() == [1, 1, 1, 1]
