"""The world as a whole, stepped by hand: frames, dose, drift, record, threads."""

import json
import threading

import numpy as np
import pytest

from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.errors import BadInput
from pyrotome.simulators.world.haadf import expected_fraction, thickness_nm
from pyrotome.simulators.world.microscope import World
from pyrotome.simulators.world.truth_log import TruthLog

S = 1_000_000_000
SHAPE = (128, 128)
FEW = {"kind": "cu-sintering", "particles": 12}


def world(journal=None, **options) -> World:
    return World(SimulatorRig.model_validate({"seed": 3, "specimen": FEW, **options}), 0, journal)


def expose(w: World, t_ns: int, exposure_s=0.5, shape=SHAPE):
    exposure = w.scan.begin(t_ns, exposure_s, shape)
    state = w.scan.state(exposure.middle_ns)
    on = w.scan.end(exposure, state)
    return w.scan.frame(exposure, state, on), state, exposure


def test_a_frame_holds_the_dose_and_the_specimen():
    w = world()
    w.column.set_blanked(0, False)
    w.stage.move(0, {"a_deg": 20.0})
    frame, state, exposure = expose(w, 5 * S)
    pixel_nm = 1064.96 / 128
    truth = w.truth_at(exposure.middle_ns)
    thickness = thickness_nm(truth, SHAPE, pixel_nm, state.tilt_deg, state.shift_nm)
    electrons = 2e-12 * 0.5 / 128**2 / 1.602176634e-19
    expected = electrons * expected_fraction(thickness)
    assert state.tilt_deg == pytest.approx(20.0, abs=0.02)
    assert frame.sum() == pytest.approx(expected.sum(), rel=5.0 / np.sqrt(expected.sum()))
    assert np.corrcoef(frame.ravel(), expected.ravel())[0, 1] > 0.95


def test_frames_are_decided_by_seed_and_history():
    frames = []
    for _ in range(2):
        w = world()
        w.column.set_blanked(0, False)
        frames.append([expose(w, k * S)[0] for k in range(1, 3)])
    np.testing.assert_array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0][0], frames[0][1]), "each frame has noise of its own"


def test_a_blanked_beam_leaves_an_empty_frame_and_no_dose():
    w = world()
    frame, _, _ = expose(w, S)
    assert frame.max() == 0
    assert w.column.dose(10 * S).total_e_per_nm2 == 0.0


def test_blanking_in_mid_exposure():
    w = world()
    w.column.set_blanked(0, False)
    exposure = w.scan.begin(S, 1.0, SHAPE)
    state = w.scan.state(exposure.middle_ns)
    assert w.scan.beam_on(exposure).min() == 1.0
    w.column.set_blanked(S + S // 2, True)
    on = w.scan.end(exposure, state)
    frame = w.scan.frame(exposure, state, on)
    assert frame[:64].max() > 0
    assert frame[64:].max() == 0
    dose = w.column.dose(10 * S)
    assert dose.unblanked_in_exposures_s == pytest.approx(0.5)
    assert dose.unblanked_outside_s == pytest.approx(1.0)


def test_a_hold_sinters_and_drags_the_specimen_along():
    w = world(goniometer={"drift_nm": 5.0, "eucentric_error_nm": 0.0})
    w.heater.go_to(0, 200.0)
    t = 3600 * S
    before, shift = w.truth_at(t), w.scan.state(t).shift_nm
    assert np.allclose(before.neck_radii_nm, w.truth_at(60 * S).neck_radii_nm, atol=0.2)
    w.heater.go_to(t, 350.0)
    t += 30 * S
    after = w.truth_at(t)
    w.heater.go_to(t, 200.0)
    moved = np.hypot(*np.subtract(w.scan.state(t).shift_nm, shift))
    assert 2.0 < moved < 6.0
    assert np.all(after.neck_radii_nm > 2.0 * before.neck_radii_nm)
    later = w.scan.state(t + 120 * S).shift_nm
    assert np.hypot(*np.subtract(later, shift)) < 0.3 * moved, "and it comes back"


def test_the_journal_tells_what_happened(tmp_path):
    path = tmp_path / "world.log"
    w = world(TruthLog(path))
    w.heater.go_to(S, 200.0)
    for k in range(100, 200):
        w.heater.reading(k * S // 100)
    w.stage.move(2 * S, {"a_deg": 10.0})
    w.column.set_blanked(3 * S, False)
    _, state, exposure = expose(w, 3 * S)
    w.column.set_blanked(4 * S, True)
    w.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    by_event = {e: [x for x in lines if x["event"] == e] for e in {x["event"] for x in lines}}
    assert set(by_event) == {"heater", "temperature", "stage", "beam", "exposure", "dose"}
    assert by_event["heater"][0]["t_ns"] == S
    assert by_event["heater"][0]["target_c"] == 200.0
    dense = [x for x in by_event["temperature"] if S < x["t_ns"] <= S + 200_000_000]
    steps = np.diff([x["t_ns"] for x in dense])
    assert steps.max() <= 1_000_000
    assert steps.min() >= 0
    assert dense[-1]["temperature_c"] > 190.0
    start, arrived = by_event["stage"]
    assert (start["action"], start["t_ns"]) == ("start", 2 * S)
    assert (arrived["action"], arrived["t_ns"]) == ("arrived", 2 * S + S // 2)
    assert [x["blanked"] for x in by_event["beam"]] == [False, True]
    (shot,) = by_event["exposure"]
    assert shot["index"] == exposure.index == 0
    assert shot["tilt_deg"] == state.tilt_deg
    assert shot["dose_e_per_nm2"] == pytest.approx(2e-12 * 0.5 / 1.602176634e-19 / 1064.96**2)
    (dose,) = by_event["dose"]
    assert dose["unblanked_in_exposures_s"] == pytest.approx(0.5)
    assert dose["unblanked_outside_s"] == pytest.approx(0.5)
    assert dose["exposed_e_per_nm2"] == pytest.approx(shot["dose_e_per_nm2"])


def test_a_journal_that_cannot_be_written(tmp_path):
    with pytest.raises(BadInput, match="cannot be written"):
        TruthLog(tmp_path / "none" / "world.log")


def test_time_never_runs_backwards():
    w = world()
    assert w.advance_to(10 * S) == 10 * S
    assert w.advance_to(5 * S) == 10 * S
    w.heater.go_to(5 * S, 200.0)
    assert w.heater.temperature_c(10 * S) == pytest.approx(25.0)
    assert w.heater.temperature_c(11 * S) > 190.0


def test_many_threads_may_ask():
    w = world()
    w.heater.go_to(0, 350.0)
    w.column.set_blanked(0, False)
    problems = []

    def ask(offset):
        try:
            for k in range(1, 60):
                t = k * S // 50 + offset
                w.heater.reading(t)
                w.stage.readback(t)
                if k % 20 == 0:
                    frame, _, _ = expose(w, t, 0.01, (64, 64))
                    assert frame.max() > 0
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=ask, args=(k * 1000,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert w.column.dose(2 * S).total_e_per_nm2 == pytest.approx(
        2e-12 / 1.602176634e-19 / 1064.96**2 * 2.0, rel=1e-6
    )
