"""Where the image is and how sharp: beam shift, focus, rotation, rows of their own time, faults."""

import json

import numpy as np
import pytest

from pyrotome.protocols.config.simulated import SimulatedColumn, SimulatorRig
from pyrotome.simulators.world.copper import Sintering
from pyrotome.simulators.world.haadf import thickness_nm
from pyrotome.simulators.world.image.deflectors import Deflectors
from pyrotome.simulators.world.image.defocus import out_of_focus
from pyrotome.simulators.world.microscope import World
from pyrotome.simulators.world.truth_log import TruthLog

S = 1_000_000_000
SHAPE = (128, 128)
FEW = {"kind": "cu-sintering", "particles": 12}
STILL = {"eucentric_error_nm": 0.0, "drift_nm": 0.0}
MATRIX = [[0.3, -0.9], [-1.1, -0.2]]


def world(journal=None, **options) -> World:
    return World(SimulatorRig.model_validate({"seed": 3, "specimen": FEW, **options}), 0, journal)


def expose(w: World, t_ns: int, exposure_s=0.5, shape=SHAPE):
    exposure = w.scan.begin(t_ns, exposure_s, shape)
    state = w.scan.state(exposure.middle_ns)
    on = w.scan.end(exposure, state)
    return w.scan.frame(exposure, state, on), state, exposure


def deflectors(**options) -> Deflectors:
    return Deflectors(SimulatedColumn.model_validate({"shift_matrix": MATRIX, **options}), 0)


def test_a_shift_moves_the_image_by_the_matrix():
    d = deflectors()
    assert d.image_shift_nm(0) == (0.0, 0.0)
    d.shift(S, (100.0, 50.0))
    assert d.read_back(S) == (100.0, 50.0)
    assert d.image_shift_nm(S) == pytest.approx((30 - 45, -110 - 10))
    assert d.image_shift_nm(S - 1) == (0.0, 0.0)
    d.inverted = True
    assert d.image_shift_nm(S) == pytest.approx((15, 120))


def test_a_shift_settles_to_one_per_cent_in_its_time():
    d = deflectors(shift_settle="10 ms")
    d.shift(S, (1000.0, 0.0))
    assert d.image_shift_nm(S) == pytest.approx((0.0, 0.0))
    assert d.image_shift_nm(S + 10_000_000)[1] == pytest.approx(-1100 * 0.99)
    assert d.image_shift_nm(2 * S)[1] == -1100.0


def test_beyond_its_limit_a_shift_is_cut_without_a_word():
    d = deflectors(shift_limit="2000 nm")
    d.shift(0, (5000.0, -3000.0))
    assert d.read_back(0) == (2000.0, -2000.0)
    d.clip_units = 100.0
    d.shift(S, (5000.0, -30.0))
    assert d.read_back(S) == (100.0, -30.0)


def test_a_shift_that_is_forgotten():
    d = deflectors()
    d.forgets = True
    d.shift(0, (100.0, 0.0))
    assert d.read_back(S // 10) == (100.0, 0.0)
    assert d.read_back(S) == (0.0, 0.0)
    assert d.image_shift_nm(S) == (0.0, 0.0)


def test_the_scan_turns_what_it_sees():
    w = world(goniometer={**STILL, "axis_turn": "2 deg"})
    w.stage.move(0, {"x_nm": 1000.0})
    y, x = w.image_truth(9 * S).offset_nm
    # Counter-clockwise with the first row at the bottom: what lies to the right goes up.
    assert (y, x) == pytest.approx((1000 * np.sin(np.radians(2)), 1000 * np.cos(np.radians(2))))
    w.column.set_optics(9 * S, rotation_deg=2.0)
    truth = w.image_truth(9 * S)
    assert truth.offset_nm == pytest.approx((0.0, 1000.0))
    assert truth.axis_deg == 0.0
    w.column.deflect(9 * S, (0.0, 100.0))
    y, x = w.image_truth(9 * S).deflected_nm
    assert (y, x) == pytest.approx((-100 * np.cos(np.radians(2)), -100 * np.sin(np.radians(2))))


def test_the_specimen_is_drawn_where_the_tilt_axis_lies():
    truth = Sintering(12, 3).truth(10.0)
    upright = thickness_nm(truth, (400, 400), 4.0, 30.0)
    turned = thickness_nm(truth, (400, 400), 4.0, 30.0, axis_deg=90.0)
    # A quarter turn counter-clockwise, rows counted upwards: (y, x) -> (x, -y).
    np.testing.assert_allclose(turned, upright.T[:, ::-1], atol=1e-2)


def test_focus_and_height():
    w = world(goniometer={**STILL, "height": "2000 nm"}, chip={"bulge": "8 nm/K"})
    assert w.image_truth(0).defocus_nm == 0.0
    w.heater.go_to(0, 200.0)
    assert w.image_truth(60 * S).defocus_nm == pytest.approx(1400.0, abs=2.0)
    w.column.set_optics(60 * S, probe_defocus_nm=1000.0, defocus_nm=400.0)
    assert w.image_truth(60 * S).defocus_nm == pytest.approx(0.0, abs=2.0)
    w.column.set_objective(60 * S, "fine", 32_768 + 50)
    assert w.image_truth(60 * S).defocus_nm == pytest.approx(-50.0, abs=2.0)
    w.stage.move(60 * S, {"z_nm": -1000.0})
    assert w.image_truth(69 * S).defocus_nm == pytest.approx(-1050.0, abs=2.0)


def test_blur_is_the_mean_over_a_disc():
    image = np.zeros((81, 81), np.float32)
    image[40, 40] = 1000.0
    seen = out_of_focus(image, 5000.0, 1.2, 1.0)
    rows, columns = np.nonzero(seen)
    assert np.hypot(rows - 40, columns - 40).max() < 6 + 1
    assert seen.sum() == pytest.approx(1000.0, rel=1e-3)
    assert seen[40, 40] == pytest.approx(1000 / (np.pi * 36), rel=0.02)
    spread = (seen * (np.arange(81) - 40) ** 2).sum() / 1000
    assert spread == pytest.approx(6.0**2 / 4, rel=0.05), "of a disc, along one axis"
    assert out_of_focus(image, 100.0, 1.2, 1.0) is image
    even = np.full((50, 70), 3.0, np.float32)
    np.testing.assert_allclose(out_of_focus(even, 9000.0, 1.2, 1.0), even, rtol=1e-6)


def test_a_frame_out_of_focus_has_less_contrast():
    sharp, dull = (world(goniometer=STILL) for _ in range(2))
    dull.stage.move(0, {"z_nm": 60_000.0})
    found = []
    for w in (sharp, dull):
        w.column.set_blanked(0, False)
        frame, state, _ = expose(w, 20 * S)
        found.append((frame.std(), float(frame.sum()), state.defocus_nm))
    assert found[1][2] == pytest.approx(60_000)
    assert found[1][0] < 0.95 * found[0][0]
    assert found[1][1] == pytest.approx(found[0][1], rel=0.02)


def test_rows_show_the_specimen_at_their_own_time():
    w = world(goniometer=STILL, column={"rolling": True})
    w.column.set_blanked(0, False)
    w.inject_faults(0, frozenset({"drift-fast"}), {"drift-fast": 200.0})
    exposure = w.scan.begin(S, 1.0, SHAPE)
    state = w.scan.state(exposure.middle_ns, exposure)
    along = np.hypot(*(state.rows_nm - state.rows_nm[0]).T)
    assert along[-1] == pytest.approx(200.0, rel=0.02)
    np.testing.assert_allclose(np.diff(along), 200 / 128, rtol=0.01)
    middle = 0.5 * (state.rows_nm[63] + state.rows_nm[64])
    np.testing.assert_allclose(middle, state.shift_nm, atol=0.1)
    assert state.looks_like(w.scan.state(exposure.middle_ns, exposure))
    w.column.deflect(S + S // 2 + 1, (500.0, 0.0))
    seen = w.scan.state(exposure.middle_ns, exposure)
    assert not state.looks_like(seen)
    assert w.scan.state(exposure.middle_ns).rows_nm is None
    step = np.hypot(*(seen.rows_nm - state.rows_nm).T)
    assert step[:60].max() == 0.0
    np.testing.assert_allclose(step[80:], 500.0)


def test_the_log_tells_offset_and_defocus_of_every_frame(tmp_path):
    path = tmp_path / "world.log"
    w = world(TruthLog(path), goniometer=STILL)
    w.column.deflect(0, (0.0, 70.0))
    w.column.set_optics(0, probe_defocus_nm=-300.0)
    expose(w, S)
    w.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (shot,) = [x for x in lines if x["event"] == "exposure"]
    assert shot["offset_nm"] == pytest.approx([-70.0, 0.0])
    assert shot["defocus_nm"] == pytest.approx(300.0)
    first, second = [x for x in lines if x["event"] == "optics"]
    assert (first["units"], second["focus_nm"]) == ([0.0, 70.0], -300.0)


def test_a_decoy_repeats_the_specimen():
    w = world(goniometer=STILL)
    w.column.set_probe(0, magnification=0.5 * w.column.state(0).magnification)
    w.column.set_blanked(0, False)
    alone = expose(w, S)[0]
    w.inject_faults(2 * S, frozenset({"decoy"}), {"decoy": 700.0})
    many, state, _ = expose(w, 3 * S)
    assert state.pitch_nm == 700.0
    assert many.sum() > 2 * alone.sum()
    w.inject_faults(4 * S, frozenset({"decoy"}), {})
    assert expose(w, 5 * S)[1].pitch_nm is None


def test_faults_behind_the_wires_are_passed_on():
    w = world(goniometer=STILL)
    sizes = {"bulge-jumps": 1000.0, "focus-jumps": 2000.0, "shift-inverted": 0.0}
    w.inject_faults(0, frozenset(sizes), sizes)
    w.column.deflect(0, (100.0, 0.0))
    truth = w.image_truth(S)
    assert truth.defocus_nm == pytest.approx(-1000.0)
    assert truth.offset_nm == pytest.approx((0.0, 100.0))
    w.inject_faults(S, frozenset(sizes), {})
    truth = w.image_truth(2 * S)
    assert (truth.defocus_nm, truth.offset_nm) == (0.0, pytest.approx((0.0, -100.0)))
