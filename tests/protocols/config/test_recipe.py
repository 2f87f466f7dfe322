"""Recipes and rigs from YAML: what is right is taken, what is wrong is named with its line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.protocols.config.realistic_rig import realistic_rig
from pyrotome.protocols.config.recipe import Recipe, load_recipe
from pyrotome.protocols.config.rig import Rig, load_rig, simulated_rig
from pyrotome.protocols.config.shift_calibration import load_shift_calibration
from pyrotome.protocols.config.simulated import Replay
from pyrotome.protocols.core.documents import load_model
from pyrotome.protocols.core.errors import BadInput

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
TEXT = """\
title: Sintering of Cu nanoparticles
sample: {name: Cu NP-150 on SiN, elements: [Cu]}
beam: {voltage: 300 kV, current: 2 pA, dwell: 500 ns, frame: [1024, 1024], pixel_size: 1.04 nm}
limits: {temperature: 900 degC, dose_per_series: 260 e/nm^2, dose: 5000 e/nm^2}
steps:
  - heat: {to: 200 degC, hold: 1 h}
  - reference: {frames: 50}
  - tilt_series: &tilts {from: -40 deg, to: 40 deg, step: 2 deg, order: ascending}
  - cycle:
      standby: 200 degC
      processing: 350 degC
      holds: [5 s, 7 s, 5 s]
      then: [{tilt_series: *tilts}]
  - ramp: {to: 850 degC, rate: 1 degC/s, frame_every: 1.4 s}
analysis:
  - denoise: {method: bm3d, noise: g4, variance: 137}
  - align: {method: mutual-information}
  - reconstruct: {method: tv, iterations: 300, binning: 4}
  - segment: {method: otsu}
  - measure: necks
"""


def test_the_designs_recipe_is_understood() -> None:
    recipe = load_model(Recipe, TEXT, "r.yaml")
    assert recipe.beam.exposure_s == pytest.approx(0.524288)
    assert recipe.beam.dose_per_frame_e_per_nm2 * 41 == pytest.approx(236.6, abs=0.05)
    cycle = recipe.steps[3].cycle
    assert cycle is not None
    assert cycle.holds_s == [5.0, 7.0, 5.0]
    assert cycle.then[0].tilt_series == recipe.steps[2].tilt_series
    assert [step.kind for step in recipe.analysis] == [
        "correct", "denoise", "align", "reconstruct", "segment", "measure",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["quickstart", "cu_sintering", "replay_needle", "neck_growth", "tracked"]
)
def test_every_example_is_valid(name: str) -> None:
    recipe, _ = load_recipe(EXAMPLES / "recipes" / f"{name}.yaml")
    assert recipe.title


def test_the_built_in_microscope_that_errs_is_that_of_the_example() -> None:
    built_in = realistic_rig().model_dump()
    example = load_rig(EXAMPLES / "rigs" / "realistic.yaml")[0].model_dump()
    files = [rig["beam"]["shift"].pop("calibration_file") for rig in (built_in, example)]
    assert built_in == example
    first, second = (load_shift_calibration(Path(file)) for file in files)
    assert first == second


@pytest.mark.parametrize(
    ("right", "wrong", "line", "message"),
    [
        ("hold: 1 h", "hld: 1 h", 6, "steps[0].heat.hld: unknown key; did you mean 'hold'?"),
        ("to: 200 degC", "to: 200 nm", 6, "steps[0].heat.to: '200 nm' has the wrong dimension"),
        ("frames: 50", "frames: many", 7, "steps[1].reference.frames"),
        ("frames: 50", "frames: 0", 7, "greater than or equal to 1"),
        ("step: 2 deg", "step: 3 deg", 8, "does not divide the 80 deg"),
        ("order: ascending", "order: sideways", 8, "'dose-symmetric'"),
        ("processing: 350 degC", "processing: 150 degC", 9, "must be hotter than standby"),
        ("holds: [5 s, 7 s, 5 s]", "holds: []", 12, "holds"),
        ("holds: [5 s,", "holds: [-5 s,", 12, "greater than 0"),
        ("- ramp:", "- rampe:", 14, "did you mean 'ramp'?"),
        ("- measure: necks", "- measure: {}\n    segment: {}", None, "exactly one of"),
        ("  - segment: {method: otsu}\n", "", None, "'measure' needs the step 'segment'"),
        ("- align: {method: mutual", "- align: {method: magic", 17, "'mutual-information'"),
        ("title: Sint", "titel: Sint", 1, "did you mean 'title'?"),
        ("title: Sint", "title: [Sint", None, "not valid YAML"),
        ("sample:", "title: twice\nsample:", 2, "written twice"),
        ("sample:", "more: !!timestamp soon\nsample:", 2, "'soon' is not a valid timestamp"),
        ("sample:", "more: !!int many\nsample:", 2, "'many' is not a valid int"),
        ("elements: [Cu]", "elements: [Copper]", 2, "elements"),
    ],
)
def test_a_mistake_is_named_with_file_line_path_and_remedy(
    right: str, wrong: str, line: int | None, message: str
) -> None:
    assert right in TEXT
    with pytest.raises(BadInput) as caught:
        load_model(Recipe, TEXT.replace(right, wrong, 1), "r.yaml")
    assert message in str(caught.value)
    assert f"r.yaml:{line}:" in str(caught.value) if line else "r.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["", "just words", "- a list", "42", "a: &x [*x]", "{? [a] : b}"])
def test_what_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"r\.yaml"):
        load_model(Recipe, text, "r.yaml")


@given(st.text(max_size=200))
def test_no_text_crashes_the_loader(text: str) -> None:
    with pytest.raises(BadInput):
        load_model(Recipe, text, "r.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", None])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"r\.yaml"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["simulated", "replay"])
def test_every_example_rig_is_valid(name: str) -> None:
    rig, _ = load_rig(EXAMPLES / "rigs" / f"{name}.yaml")
    assert rig.simulator is not None


def test_paths_in_a_rig_are_taken_from_its_folder() -> None:
    rig, _ = load_rig(EXAMPLES / "rigs" / "replay.yaml")
    assert rig.simulator is not None
    assert isinstance(rig.simulator.specimen, Replay)
    assert (
        Path(rig.simulator.specimen.stack).parent
        == EXAMPLES / "rigs/../../../shared/data/needle_haadf"
    )


def test_a_rig_survives_the_way_to_another_process() -> None:
    rig = simulated_rig()
    assert Rig.model_validate_json(rig.model_dump_json(by_alias=True)) == rig


MERGED = """
title: merge
sample: {name: Cu}
beam: &beam {voltage: 300 kV, current: 2 pA, dwell: 500 ns, frame: [64, 64], pixel_size: 1.04 nm}
steps:
  - heat: &slow {to: 200 degC, hold: 1 s, rate: 1 degC/s}
  - heat: &other {to: 300 degC, hold: 7 s}
  - heat: CASE
"""


@pytest.mark.parametrize(
    ("case", "to_c", "hold_s", "rate_c_per_s"),
    [
        ("{<<: *slow, hold: 2 s}", 200, 2, 1),
        ("{hold: 2 s, <<: *slow}", 200, 2, 1),
        ("{<<: [*other, *slow], to: 400 degC}", 400, 7, 1),
        ("{<<: [*slow, *other]}", 200, 1, 1),
        ("{<<: {<<: *slow, hold: 3 s}, to: 20 degC}", 20, 3, 1),
    ],
)
def test_merge_keys_work_as_yaml_says(
    case: str, to_c: float, hold_s: float, rate_c_per_s: float
) -> None:
    recipe = load_model(Recipe, MERGED.replace("CASE", case), "r.yaml")
    heat = recipe.steps[2].heat
    assert heat is not None
    assert (heat.to_c, heat.hold_s, heat.rate_c_per_s) == (to_c, hold_s, rate_c_per_s)
    first = recipe.steps[0].heat
    assert first is not None
    assert first.hold_s == 1


@pytest.mark.parametrize(
    ("case", "line", "message"),
    [
        ("{<<: *slow, hold: 2 s, hold: 3 s}", 8, "the key 'hold' is written twice"),
        ("{<<: *slow, <<: *other}", 8, "'<<' is written twice; to merge several, write a list"),
        ("{<<: *slow, hold: 2 nm}", 8, "steps[2].heat.hold: '2 nm' has the wrong dimension"),
        ("{<<: *beam, to: 2 degC}", 4, "steps[2].heat.voltage: unknown key"),
        ("&own {<<: *own}", 8, "merges itself"),
        ("{<<: 3}", 8, "merging"),
    ],
)
def test_a_mistake_with_merge_keys_is_named(case: str, line: int, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_model(Recipe, MERGED.replace("CASE", case), "r.yaml")
    assert message in str(caught.value)
    assert f"r.yaml:{line}" in str(caught.value)


def test_merges_of_merges_do_not_multiply() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 10)]
    with pytest.raises(BadInput, match="more than 10000 keys"):
        load_model(Recipe, "\n".join(lines), "r.yaml")


def test_the_shared_case_of_a_merge_key() -> None:
    case = Path(__file__).resolve().parents[4] / "shared" / "cases" / "merge_key.yaml"
    if not case.is_file():
        pytest.skip("the shared cases are not beside this checkout")
    recipe, _ = load_recipe(case)
    assert [step.heat.hold_s for step in recipe.steps if step.heat is not None] == [1.0, 2.0]
