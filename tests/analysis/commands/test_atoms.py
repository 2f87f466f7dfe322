"""``pyrotome atoms``: from a file to extended XYZ and a table, and what is refused."""

import csv

import numpy as np
import pytest
from typer.testing import CliRunner

from pyrotome.analysis.atoms import match_atoms
from pyrotome.analysis.commands.app import commands
from pyrotome.analysis.commands.atoms import atoms_command
from pyrotome.protocols.core.errors import BadInput
from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

PIXEL = "0.35 Å"


@pytest.fixture(scope="module")
def particle():
    return amorphous_particle(40, np.random.default_rng(3))


@pytest.fixture(scope="module")
def stack(particle, tmp_path_factory):
    imaging = Imaging(pixel_a=0.35, shape=(56, 56), dose_e_per_a2=4e4, pedestal=0.5)
    tilts = np.arange(0.0, 180.0, 7.5)
    series = simulated_series(particle, tilts, imaging, np.random.default_rng(4))
    path = tmp_path_factory.mktemp("stack") / "particle.npz"
    np.savez(path, images=series.counts, tilt_deg=tilts)
    return path


def read_xyz(path):
    """Positions, and all columns by their names."""
    count, head, *rows = path.read_text().splitlines()
    names = head.split("Properties=")[1].split(" ")[0].split(":")
    assert int(count) == len(rows)
    widths = [(names[n], int(names[n + 2])) for n in range(0, len(names), 3)]
    values = [row.split() for row in rows]
    columns, at = {}, 0
    for name, width in widths:
        part = [row[at : at + width] for row in values]
        columns[name] = part if name == "species" else np.array(part, float)
        at += width
    assert all(len(row) == at for row in values)
    return columns


def test_a_stack_becomes_atoms_with_errors(stack, particle, tmp_path):
    xyz, table = tmp_path / "atoms.xyz", tmp_path / "atoms.csv"
    made = CliRunner().invoke(
        commands, ["atoms", str(stack), "--pixel-size", PIXEL, "--species", "Zr", "-o", str(xyz),
              "--table", str(table)],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "position error" in made.output
    columns = read_xyz(xyz)
    assert {species for (species,) in columns["species"]} == {"Zr"}
    assert columns["pos"].mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-4)
    match = match_atoms(columns["pos"], particle)
    assert match.recall == match.precision == 1
    assert columns["sigma"].shape == (40, 3)
    assert np.all((columns["sigma"] > 0) & (columns["sigma"] < 0.1))
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert float(rows[3]["x_a"]) == pytest.approx(columns["pos"][3, 0], abs=1e-4)
    assert float(rows[3]["probability"]) > 0.9


def test_two_species_are_named_in_the_files(stack, particle, tmp_path, capsys):
    held = dict(np.load(stack))
    bright = np.arange(len(particle)) % 2 == 0
    imaging = Imaging(pixel_a=0.35, shape=(56, 56), dose_e_per_a2=8e4, pedestal=0.0)
    more = simulated_series(particle[bright], held["tilt_deg"], imaging, np.random.default_rng(5))
    path, xyz, table = (tmp_path / name for name in ("two.npz", "two.xyz", "two.csv"))
    np.savez(path, images=held["images"] + more.counts, tilt_deg=held["tilt_deg"])
    atoms_command(path, xyz, None, PIXEL, None, None, "Au,Pd", None, table, 0)
    assert "20 Au of" in capsys.readouterr().out
    columns = read_xyz(xyz)
    match = match_atoms(columns["pos"], particle)
    symbols = [columns["species"][n] == ["Au"] for n, _ in match.pairs]
    assert symbols == bright[match.pairs[:, 1]].tolist()
    assert columns["species_probability"].min() > 0.9
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["species"] for row in rows] == [symbol for (symbol,) in columns["species"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"species": "zirconium"}, "no chemical symbol"),
        ({"species": "Zr,oxygen"}, "'oxygen' is no chemical symbol"),
        ({"species": "Zr,Zr"}, "each of them once"),
        ({"pixel_size": "-1 nm"}, "not above zero"),
        ({"pixel_size": None}, "has no pixel size"),
        ({"table": "atoms.txt"}, "name a .csv"),
        ({"target": "atoms.cif"}, "name a .xyz"),
    ],
)
def test_wrong_options_are_refused_and_leave_nothing(stack, tmp_path, options, message):
    given = {
        "source": stack, "target": "atoms.xyz", "tilts": None, "pixel_size": PIXEL,
        "tilt_axis": None, "entry": None, "species": "Zr", "bond": None, "table": None, "seed": 0,
    }  # fmt: skip
    given |= options
    given["target"] = tmp_path / given["target"]
    given["table"] = None if given["table"] is None else tmp_path / given["table"]
    with pytest.raises(BadInput, match=message):
        atoms_command(**given)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_counts_is_refused(tmp_path):
    path = tmp_path / "dark.npz"
    np.savez(path, images=np.full((3, 16, 16), -2.0), tilt_deg=[0.0, 1, 2])
    with pytest.raises(BadInput, match="lowest value is -2"):
        atoms_command(path, tmp_path / "a.xyz", None, PIXEL, None, None, "Zr", None, None, 0)
    assert [found.name for found in tmp_path.iterdir()] == ["dark.npz"]


def test_doubts_stand_on_screen_and_in_the_file(stack, tmp_path, capsys):
    held = dict(np.load(stack))
    path, xyz = tmp_path / "gap.npz", tmp_path / "gap.xyz"
    keep = np.arange(len(held["tilt_deg"])) != 7
    np.savez(path, images=held["images"][keep], tilt_deg=held["tilt_deg"][keep])
    atoms_command(path, xyz, None, PIXEL, None, None, "Zr", None, None, 0)
    told = "no view between 45.0 and 60.0 deg"
    assert told in capsys.readouterr().err
    head = xyz.read_text().splitlines()[1]
    assert told in head.split('doubts="')[1].split('"')[0]
