"""Atoms while the microscope tilts: counts through the wires, live models, a series that ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import yaml
from command_line import RIG

import pyrotome
from pyrotome.analysis.atoms import match_atoms
from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

TILTS = np.arange(-72.0, 73.0, 6.0)
TRUTH_A = amorphous_particle(40, np.random.default_rng(3))
RECIPE: dict[str, Any] = {
    "title": "Atoms, live",
    "sample": {"name": "particle", "elements": ["Si"]},
    "beam": {
        "voltage": "300 kV", "current": "2 pA", "dwell": "10 us", "frame": [56, 56],
        "pixel_size": "0.035 nm",
    },
    "limits": {"temperature": "900 degC"},
    "steps": [
        {"tilt_series": {
            "from": "-72 deg", "to": "72 deg", "step": "6 deg", "order": "dose-symmetric",
            "until": {"quantity": "atoms.position_error", "below": "60 pm"},
        }},
    ],
    "analysis": [{"correct": "off"}, {"trace": {"species": "Si", "live_time": "2 s"}}],
}  # fmt: skip


def write_recording(folder: Path) -> None:
    """Counts of a particle at every angle, for the simulated microscope to show."""
    imaging = Imaging(0.35, (56, 56), dose_e_per_a2=6e4, pedestal=0.5)
    counts = simulated_series(TRUTH_A, TILTS, imaging, np.random.default_rng(4)).counts
    with mrcfile.new(folder / "atoms.mrc") as file:
        file.set_data(counts.astype(np.int16))
    (folder / "atoms.rawtlt").write_text("".join(f"{tilt:g}\n" for tilt in TILTS))


def test_a_series_ends_by_its_atoms_and_the_file_holds_them(cli: Any) -> None:
    write_recording(cli.folder)
    rig = {**RIG, "stage": {**RIG["stage"]}, "simulator": dict(RIG["simulator"])}
    rig["stage"]["limits"] = {"tilt": ["-80 deg", "80 deg"], "speed": "60 deg/s", "settle": "0.3 s"}
    rig["simulator"] |= {
        "specimen": {"kind": "replay", "stack": "atoms.mrc", "tilts": "atoms.rawtlt"},
        "goniometer": {"speed": "60 deg/s", "readback_noise": "0 deg", "backlash": "0 deg"},
    }
    (cli.folder / "rig.yaml").write_text(yaml.safe_dump(rig))
    (cli.folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    done = cli("run", "recipe.yaml", "--rig", "rig.yaml", "-o", "run.nxs")
    assert done.returncode == 0, done.stderr
    with pyrotome.open(cli.folder / "run.nxs") as run:
        series = run.series[1]
        said = [event.message for event in run.events]
        taken = int(series.recorded.sum())
        ended = any("series_001 ends here: the median of atoms.position_error" in t for t in said)
        # On a computer that is too busy to model between the tilts, the series is taken whole.
        assert ended or any("views come faster than atoms can be modelled" in t for t in said)
        assert 8 < taken < len(TILTS) if ended else taken == len(TILTS)
        assert not any("is lost" in text for text in said)
        atoms = series.atoms
        assert atoms is not None
        match = match_atoms(atoms.positions_a, TRUTH_A)
        assert min(match.recall, match.precision) > 0.9
        assert np.median(atoms.position_error_nm) < 0.06
    report = json.loads(cli("inspect", "run.nxs", "--json").stdout)["series"][0]
    assert report["lost_frames"] == 0
    assert report["atoms"]["count"] == len(atoms)
