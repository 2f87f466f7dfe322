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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"species": "zirconium"}, "no chemical symbol"),
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
