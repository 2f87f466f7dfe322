"""``pyrotome structure``: from a file of atoms to tables and pictures, and what is refused."""

import csv

import numpy as np
import pytest
from lattices import METAL_EDGE, OXIDE_EDGE, ball, write_extended_xyz
from typer.testing import CliRunner

from pyrotome.analysis.commands.app import commands
from pyrotome.analysis.commands.structure import OVITO, StructureFiles, structure_command
from pyrotome.protocols.core.errors import BadInput

SIGMA = 0.05


@pytest.fixture(scope="module")
def particle():
    """Metal core in cubic oxide."""
    oxide = ball("fcc", OXIDE_EDGE, 17.0)
    core = ball("fcc", METAL_EDGE, 10.0)
    return np.vstack([core, oxide[np.linalg.norm(oxide, axis=1) > 12.3]])


def noisy(particle, seed):
    return particle + np.random.default_rng(seed).normal(0, SIGMA, particle.shape)


@pytest.fixture(scope="module")
def file(particle, tmp_path_factory):
    path = tmp_path_factory.mktemp("atoms") / "second.xyz"
    write_extended_xyz(path, noisy(particle, 1), SIGMA, probability=np.full(len(particle), 0.9999))
    return path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def command(*options):
    return CliRunner().invoke(commands, ["structure", *map(str, options)])


def test_atoms_become_tables_and_a_picture(file, particle, tmp_path):
    first, table = tmp_path / "first.xyz", tmp_path / "structure.csv"
    write_extended_xyz(first, noisy(particle[1:] + np.array([4.0, 1.0, -2.0]), 2), SIGMA)
    made = command(
        file, "-o", table, "--before", first, "--figure", tmp_path / "structure.png",
        "--xyz", tmp_path / "structure.xyz", "--cif", tmp_path / "structure.cif", "--draws", 3,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "two stated errors, meant to hold the truth in 95 % of cases" in made.output
    assert f"{len(particle) - 1} atoms in both" in made.output
    atoms = rows(table)
    assert len(atoms) == len(particle)
    middle = atoms[int(np.argmin(np.linalg.norm(particle, axis=1)))]
    assert middle["phase"] == "core"
    assert float(middle["concentration_per_a3"]) == pytest.approx(4 / METAL_EDGE**3, rel=0.1)
    assert 0 < float(middle["order_sd"]) < 0.2
    summary = {row["quantity"]: row for row in rows(tmp_path / "structure_summary.csv")}
    core = summary["core_concentration_per_a3"]
    assert float(core["low_95"]) < 4 / METAL_EDGE**3 * 1.02
    assert float(core["low_95"]) < float(core["value"]) < float(core["high_95"])
    moves = rows(tmp_path / "structure_displacements.csv")
    assert [row["what"] for row in moves].count("came") == 1
    assert {"r_a", "Zr-Zr", "Zr-Zr core"} <= set(rows(tmp_path / "structure_pdf.csv")[0])
    assert rows(tmp_path / "structure_profile.csv")
    assert (tmp_path / "structure_voids.csv").exists()
    assert (tmp_path / "structure.png").read_bytes().startswith(b"\x89PNG")


def test_a_foreign_file_is_analysed_without_errors(particle, tmp_path):
    foreign = tmp_path / "foreign.xyz"
    lines = [f"Zr {x:.5f} {y:.5f} {z:.5f}" for x, y, z in particle]
    foreign.write_text("\n".join([str(len(lines)), "from elsewhere", *lines]) + "\n")
    made = command(foreign, "-o", tmp_path / "s.csv")
    assert made.exit_code == 0, made.output
    assert "+-" not in made.output
    assert rows(tmp_path / "s.csv")[0]["order_sd"] == ""


GOOD = "Zr 0 0 0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no atoms"),
        ("not a number\n\n", "is no extended XYZ"),
        ("3\nplain\nZr 0 0 0\n", "is no extended XYZ"),
        ("2\nplain\nZr 0 0 0\nZr 0 0 3\n", "2 atoms are too few"),
        ("12\nplain\n" + "".join(f"Zr {n % 6} 0 {n % 3}\n" for n in range(12)), "the same place"),
        ("10\nplain\n" + 9 * GOOD + "Zr 0 nan 0\n", "position of atom 10 is NaN"),
        ("10\nplain\n" + 10 * "Qq 0 0 0\n", "no element"),
        (
            '10\nLattice="nan 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3\n' + 10 * GOOD,
            "cell (Lattice) holds NaN",
        ),
        ("10\nProperties=pos:R:3\n" + 10 * "0 0 0\n", "tells no species"),
        (
            "10\nProperties=species:S:1:pos:R:3:covariance:R:2\n" + 10 * "Zr 0 0 0 1 1\n",
            "'covariance' has",
        ),
        (2 * ("1\nplain\n" + GOOD), "holds 2 pictures"),
    ],
)
def test_a_wrong_file_gives_one_plain_sentence(text, message, tmp_path):
    path = tmp_path / "atoms.xyz"
    path.write_text(text)
    with pytest.raises(BadInput, match=message.replace("(", r"\(").replace(")", r"\)")) as refused:
        run(path, tmp_path)
    assert str(refused.value).count("\n") == 0
    assert not (tmp_path / "s.csv").exists()


def run(path, folder, **changed):
    options = {"before": None, "species": None, "metal": None, "cutoff": None, "draws": 1}
    files = changed.pop("files", StructureFiles(folder / "s.csv"))
    templates = changed.pop("templates", False)
    structure_command(path, files, **(options | changed), seed=0, templates=templates)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"species": "zirconium"}, "no chemical symbol"),
        ({"metal": "Fe"}, "there is no Fe"),
        ({"cutoff": "-1 nm"}, "not above zero"),
        ({"cutoff": "1 km"}, "a longest bond lies between"),
        ({"draws": -1}, "not between 0 and 1000"),
        ({"files": "table.txt"}, "ends in .csv"),
    ],
)
def test_wrong_options_are_refused_and_leave_no_file(changed, message, file, tmp_path):
    if "files" in changed:
        changed = {"files": StructureFiles(tmp_path / changed["files"])}
    with pytest.raises(BadInput, match=message):
        run(file, tmp_path, **changed)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(file, tmp_path):
    (tmp_path / "s_pdf.csv").write_text("mine")
    with pytest.raises(BadInput, match="not overwritten"):
        run(file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["s_pdf.csv"]


def test_a_file_that_is_not_there(tmp_path):
    made = command(tmp_path / "none.xyz", "-o", tmp_path / "s.csv")
    assert isinstance(made.exception, BadInput)
    assert "No such file" in str(made.exception)


def test_template_matching_says_what_to_install(file, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ovito.data", None)
    with pytest.raises(BadInput, match="pip install"):
        run(file, tmp_path, templates=True, draws=0)
    assert "pyrotome[ovito]" in OVITO
    assert not list(tmp_path.iterdir())


def test_unknown_atoms_are_named_by_the_user(particle, tmp_path, capsys):
    path = tmp_path / "x.xyz"
    write_extended_xyz(path, particle, species="X")
    run(path, tmp_path, species="Zr", draws=0)
    assert rows(tmp_path / "s.csv")[0]["species"] == "Zr"
    assert "species X" not in capsys.readouterr().err
