"""The whole analysis: errors, bias, probabilities, what is refused and what is doubted."""

import numpy as np
import pytest
from lattices import METAL_EDGE, OXIDE_EDGE, ball, fluorite, oxidised_particle, same_errors

from pyrotome.analysis.structure import StructureSettings, analyse_structure, atom_list

SIGMA = 0.086  # 15 pm in three dimensions: a tenth of the dose of the paper
QUICK = StructureSettings(draws=6)


@pytest.fixture(scope="module")
def particle():
    return oxidised_particle()


@pytest.fixture(scope="module")
def truth(particle):
    return analyse_structure(atom_list(particle, "Zr"), QUICK)


@pytest.fixture(scope="module")
def found(particle):
    noise = np.random.default_rng(8).normal(0, SIGMA, particle.shape)
    atoms = atom_list(particle + noise, "Zr", same_errors(particle, SIGMA))
    return analyse_structure(atoms, QUICK, seed=1)


def test_without_errors_figures_have_none_and_it_is_told(truth):
    assert truth.draws == 0
    assert all(one.value == pytest.approx(one.raw, nan_ok=True) for one in truth.figures.values())
    assert all(np.isnan(one.error) for one in truth.figures.values())
    assert all(np.isnan(sd).all() for sd in truth.sd.values())
    assert any("no errors" in doubt for doubt in truth.doubts)


def test_the_truth_lies_inside_the_stated_errors(truth, found):
    held = []
    for name, one in found.figures.items():
        true = truth.figures[name].raw if name in truth.figures else np.nan
        if np.isfinite(true) and np.isfinite(one.error) and "peak" not in name:
            held.append(one.interval[0] - 1e-9 <= true <= one.interval[1] + 1e-9)
    assert len(held) > 20
    assert np.mean(held) > 0.85


def test_bias_of_the_oxidation_of_the_core_is_taken_away(truth, found):
    true, one = truth.figures["core_oxidation"].raw, found.figures["core_oxidation"]
    assert one.raw - true > 0.05
    assert abs(one.value - true) < 0.6 * (one.raw - true)
    assert one.interval[0] <= true <= one.interval[1]


@pytest.mark.parametrize("name", ["order", "concentration_per_a3", "oxidation"])
def test_errors_of_single_atoms_are_about_right(truth, found, name):
    off = found.measurement.per_atom[name] - truth.measurement.per_atom[name]
    known = np.isfinite(off) & (found.sd[name] > 0)
    assert known.sum() > 200
    ratio = np.sqrt(np.mean(off[known] ** 2) / np.mean(found.sd[name][known] ** 2))
    assert 0.5 < ratio < 1.3


def test_probabilities_of_parts_follow_the_parts(found):
    assert found.phase_probability.sum(axis=1) == pytest.approx(1)
    likely = found.phase_probability.argmax(axis=1)
    assert np.mean(likely == found.measurement.phase) > 0.85


def test_the_same_seed_gives_the_same_result(particle):
    atoms = atom_list(particle, "Zr", same_errors(particle, 0.05))
    one, two, other = (
        analyse_structure(atoms, StructureSettings(draws=2), seed=seed) for seed in (3, 3, 4)
    )
    key = "disordered_fraction"
    assert one.figures[key] == two.figures[key]
    assert one.figures[key] != other.figures[key]


def test_atoms_that_may_not_be_there_make_errors_too():
    atoms = ball("fcc", OXIDE_EDGE, 14.0)
    probability = np.ones(len(atoms))
    deep = np.argsort(np.linalg.norm(atoms, axis=1))
    probability[deep[:1]] = 0.7
    probability[deep[-5:]] = 0.2
    found = analyse_structure(
        atom_list(atoms, "Zr", probability=probability), StructureSettings(draws=12)
    )
    assert len(found.index) == len(atoms) - 5
    assert any("5 atoms are less likely" in doubt for doubt in found.doubts)
    assert found.figures["vacancies"].value == 0
    assert 0.2 < found.figures["vacancies"].error < 0.7  # sqrt(0.3 0.7) = 0.46


def test_the_heaviest_species_is_the_metal_and_partial_functions_are_made():
    zr, oxygen = fluorite(13.0)
    atoms = atom_list(
        np.concatenate([oxygen, zr]), np.array(["O"] * len(oxygen) + ["Zr"] * len(zr))
    )
    found = analyse_structure(atoms, numbers={"O": 8, "Zr": 40})
    assert found.metal == "Zr"
    assert (found.index >= len(oxygen)).all()
    assert {"Zr-Zr", "Zr-O", "O-O"} <= set(found.measurement.pairs)
    assert found.figures["pdf_Zr-O_peak_1_a"].raw == pytest.approx(2.208, abs=1e-3)
    assert found.figures["oxidation"].raw > 0.99


def test_other_metals_get_their_cutoff_from_the_pair_distribution():
    copper = ball("fcc", 3.61, 14.0)
    found = analyse_structure(atom_list(copper, "Cu"))
    assert 2.8 < found.cutoff_a < 3.5
    deep = np.linalg.norm(copper, axis=1) < 7
    assert found.measurement.per_atom["order"][deep] == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_analysed_is_refused(particle):
    with pytest.raises(ValueError, match="0 atoms of Fe"):
        analyse_structure(atom_list(particle, "Zr"), StructureSettings(metal="Fe"))
    with pytest.raises(ValueError, match="a longest bond lies between"):
        analyse_structure(atom_list(particle, "Zr"), StructureSettings(cutoff_a=0.1))


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        (lambda p: atom_list(p * 0.1, "Zr"), "positions in angstrom"),
        (lambda p: atom_list(p, "Zr", same_errors(p, 0.2)), "20 pm along an axis"),
        (lambda p: atom_list(np.vstack([p, p[:1] + 0.5]), "Zr"), "found twice"),
    ],
)
def test_what_seems_wrong_is_told(change, doubt):
    found = analyse_structure(change(ball("fcc", METAL_EDGE, 12.0)), StructureSettings(draws=1))
    assert any(doubt in told for told in found.doubts), found.doubts
