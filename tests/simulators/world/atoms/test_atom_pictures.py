"""Pictures of atoms: peaks where the beam meets them, counts of the dose, the column's errors."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from pyrotome.protocols.config.simulated import SimulatedColumn, SimulatorRig, ZrZrO2
from pyrotome.simulators.world.atoms.projection import (
    VACUUM,
    Probe,
    Scatterers,
    counted_fraction,
    draw_fraction,
)
from pyrotome.simulators.world.atoms.scattering import cross_section_a2
from pyrotome.simulators.world.atoms.specimens import OxidisedParticle
from pyrotome.simulators.world.image.deflectors import scan_matrix_at
from pyrotome.simulators.world.microscope import World
from pyrotome.simulators.world.truth_log import TruthLog

S = 1_000_000_000
STILL = {"eucentric_error_nm": 0.0, "drift_nm": 0.0, "backlash": "0 deg", "settling": "0 s"}
SHAPE = (96, 96)
FIELD_NM = 96 * 0.035


def world(specimen=None, log=None, **options) -> World:
    specimen = {"kind": "zr-zro2", "atoms": 120} if specimen is None else specimen
    rig = {"seed": 3, "specimen": specimen, "goniometer": STILL, **options}
    w = World(SimulatorRig.model_validate(rig), 0, log)
    w.column.set_blanked(0, False)
    w.column.set_probe(0, spot_size_index=3, magnification=0.1e9 / FIELD_NM)
    return w


def expose(w, t_ns, exposure_s=0.03, shape=SHAPE):
    exposure = w.scan.begin(t_ns, exposure_s, shape)
    state = w.scan.state(exposure.middle_ns, exposure)
    return w.scan.frame(exposure, state, w.scan.end(exposure, state)), state


def summed(atoms, seen, shape, probe):
    """The same picture, pixel by pixel and atom by atom."""
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in shape)
    nominal = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1) * probe.pixel_a
    at = nominal @ probe.scan.T - probe.rows_a[:, None, :]
    away2 = ((at[:, :, None] - seen[:, [1, 0]]) ** 2).sum(axis=-1)
    disc2 = ((seen[:, 2] + probe.defocus_a) * probe.convergence_mrad * 1e-3) ** 2
    peak = probe.sd_a**2 + atoms.thermal_a**2 + disc2 / 4
    flux = atoms.cross_a2 / (1 + probe.tail)
    found = np.full(shape, VACUUM)
    for part, variance in ((1.0, peak), (probe.tail, peak + probe.tail_a**2)):
        weight = part * flux / (2 * np.pi * variance)
        found += (weight * np.exp(-away2 / (2 * variance))).sum(axis=-1)
    return found


def test_a_picture_is_the_sum_of_its_peaks():
    rng = np.random.default_rng(0)
    places = rng.uniform(-6, 6, (20, 3))
    atoms = Scatterers(places, rng.uniform(0.005, 0.01, 20), np.full(20, 0.08), 20)
    rows = np.array([0.4, -0.3]) + 0.2 * rng.standard_normal((40, 2))
    scan = np.array([[1.02, 0.03], [-0.05, 0.97]])
    probe = Probe(0.35, scan, rows, 0.42, 0.2, 1.5, 20.0, 15.0)
    tilt, turn = np.radians(30), np.radians(10)
    x, y, z = places.T
    across, height = x * np.cos(tilt) + z * np.sin(tilt), z * np.cos(tilt) - x * np.sin(tilt)
    seen = np.stack(
        [
            across * np.cos(turn) - y * np.sin(turn),
            across * np.sin(turn) + y * np.cos(turn),
            height,
        ],
        axis=1,
    )
    found = counted_fraction(atoms, (40, 44), 30.0, 10.0, probe)
    whole = summed(atoms, seen, (40, 44), probe)
    assert np.abs(found - whole).max() < 2e-3 * whole.max()


def test_an_atom_gives_its_cross_section_times_the_fluence():
    atoms = Scatterers(np.zeros((1, 3)), np.array([0.01]), np.array([0.08]), 1)
    probe = Probe(0.3, np.eye(2), np.zeros((80, 2)), 0.42, 0.2, 1.5)
    found = counted_fraction(atoms, (80, 80), 0.0, 0.0, probe) - VACUUM
    assert found.sum() * 0.3**2 == pytest.approx(0.01, rel=2e-3)
    rng = np.random.default_rng(1)
    counts = draw_fraction(found.astype(np.float32), np.full(80, 4000, np.float32), rng)
    assert counts.sum() == pytest.approx(0.01 * 4000 / 0.09, rel=0.2)
    assert counts.dtype == np.uint16


def test_heavier_atoms_scatter_more_and_faster_electrons_less():
    sizes = [cross_section_a2(symbol) for symbol in ("C", "O", "Si", "Zr")]
    assert sizes == sorted(sizes)
    assert cross_section_a2("Zr", 200.0) > cross_section_a2("Zr")


def test_counts_follow_the_dose_and_truth_the_temperature():
    w = world()
    frame, _ = expose(w, S)
    truth = w.atoms_at(2 * S)
    zr = truth.of("Zr")
    assert len(zr) == 120
    electrons = 16e-12 * 0.03 / 96**2 / 1.602176634e-19
    fluence = electrons / 0.35**2
    expected = fluence * sum(cross_section_a2(str(symbol)) for symbol in truth.symbols)
    expected += electrons * VACUUM * 96**2
    # What the tail has beyond the field is missing.
    assert frame.sum() == pytest.approx(expected, rel=0.06)
    w.heater.go_to(3 * S, 350.0)
    moved = np.linalg.norm(w.atoms_at(63 * S).of("Zr") - zr, axis=1)
    assert 0 < (moved > 0.5).sum() < 60
    with pytest.raises(ValueError, match="no known geometry"):
        w.truth_at(64 * S)


def test_frames_are_decided_by_seed_and_history():
    frames = [expose(world(), S)[0] for _ in range(2)]
    np.testing.assert_array_equal(frames[0], frames[1])


def test_the_image_is_drawn_at_the_true_tilt_and_shift():
    w = world()
    w.stage.move(0, {"a_deg": 60.0, "x_nm": 0.4})
    frame, state = expose(w, 9 * S, 3.0)
    zr = w.atoms_at(9 * S).of("Zr") / 10
    x = zr[:, 0] * np.cos(np.pi / 3) + zr[:, 2] * np.sin(np.pi / 3) + state.shift_nm[1]
    columns = (np.arange(96) - 47.5) * 0.035
    level = frame[:4].mean()
    weight = frame.sum(axis=0) - 96 * level
    assert state.shift_nm[1] == pytest.approx(0.2)
    assert (weight * columns).sum() / weight.sum() == pytest.approx(x.mean(), abs=0.02)


def test_a_film_lies_behind_the_particle():
    bare, film = (
        expose(world({"kind": "zr-zro2", "atoms": 120, "film": f"{nm} nm"}), S)[0] for nm in (0, 3)
    )
    corner = (slice(0, 10), slice(0, 10))
    electrons = 16e-12 * 0.03 / 96**2 / 1.602176634e-19
    added = film[corner].mean() - bare[corner].mean()
    assert added == pytest.approx(electrons * 30 * 0.1 * cross_section_a2("C"), rel=0.25)


def test_rows_jitter_each_by_itself_and_alike_in_every_copy():
    w = world(column={"scan_jitter": "10 pm"})
    exposure = w.scan.begin(S, 0.03, SHAPE)
    one, again = (w.scan.state(exposure.middle_ns, exposure) for _ in range(2))
    np.testing.assert_array_equal(one.rows_nm, again.rows_nm)
    assert np.std(one.rows_nm) == pytest.approx(0.010, rel=0.3)
    assert one.looks_like(again)
    other = w.scan.begin(2 * S, 0.03, SHAPE)
    assert not one.looks_like(w.scan.state(other.middle_ns, other))


def test_the_stage_creeps_between_tilts():
    w = world(goniometer={**STILL, "creep": "0.05 nm/s"})
    w.stage.move(S, {"a_deg": 10.0})
    shifts = np.array([w.scan.state(t * S).shift_nm for t in (1, 3, 5, 7)])
    steps = np.diff(shifts[1:], axis=0)
    np.testing.assert_allclose(steps[0], steps[1])
    assert 0.005 < np.abs(steps).max() < 0.5
    w.stage.move(7 * S, {"a_deg": 20.0})
    here = np.array(w.scan.state(7 * S).shift_nm)
    np.testing.assert_allclose(here, shifts[3], atol=1e-9)
    turned = np.array(w.scan.state(12 * S).shift_nm) - np.array(w.scan.state(10 * S).shift_nm)
    assert not np.allclose(turned, steps[0])


def test_the_specimen_is_tilted_otherwise_than_the_encoder_says():
    w = world(goniometer={**STILL, "tilt_error": "0.1 deg"})
    off = []
    for k in range(1, 30):
        w.stage.move(k * S, {"a_deg": 2.0 * k})
        off.append(w.scan.state(k * S + S // 2).tilt_deg - 2.0 * k)
        assert w.scan.state(k * S + S * 3 // 4).tilt_deg == pytest.approx(2.0 * k + off[-1])
    assert np.std(off) == pytest.approx(0.1, rel=0.4)
    assert len(set(off)) == len(off)


def test_the_crystal_of_silicon_has_its_spots():
    w = world("si-110")
    frame, _ = expose(w, S, 1.0)
    spectrum = np.abs(np.fft.fft2(frame - frame.mean(), (1024, 1024)))
    # (002) along the columns' numbers, (2-20) along the rows', in cycles a pixel.
    for steps, spacing_a in (((0, 1), 5.431 / 4), ((1, 0), 5.431 / np.sqrt(8))):
        at = round(1024 * 0.35 / spacing_a)
        window = spectrum[0, at - 15 : at + 16] if steps[1] else spectrum[at - 15 : at + 16, 0]
        assert abs(int(window.argmax()) - 15) <= 1


def test_the_coils_distort_a_scan_in_their_own_axes():
    matrix = ((1.02, 0.01), (0.03, 0.97))
    np.testing.assert_allclose(scan_matrix_at(matrix, 0.0), matrix)
    np.testing.assert_allclose(scan_matrix_at(matrix, 180.0), matrix)
    # Turned by a quarter, the rows of the picture run along the coils' x.
    np.testing.assert_allclose(scan_matrix_at(matrix, 90.0), [[0.97, -0.03], [-0.01, 1.02]])
    with pytest.raises(ValidationError, match="a scan is not that wrong"):
        SimulatedColumn.model_validate({"scan_matrix": [[1.5, 0], [0, 1]]})


def test_the_log_tells_what_a_frame_saw(tmp_path):
    path = tmp_path / "world.log"
    w = world(log=TruthLog(path))
    w.heater.go_to(0, 300.0)
    expose(w, 9 * S)
    w.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    exposed = next(line for line in lines if line["event"] == "exposure")
    again = OxidisedParticle(ZrZrO2(kind="zr-zro2", atoms=120), 3)
    positions = again.truth(exposed["equivalent_s"]).positions_a
    np.testing.assert_array_equal(positions, w.atoms.truth(exposed["equivalent_s"]).positions_a)
