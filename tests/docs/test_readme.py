"""The README is right: its recipes and rigs are valid, its commands exist, its code runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.drivers.registry import check_drivers
from pyrotome.protocols.config.realistic_rig import realistic_rig
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import Rig
from pyrotome.protocols.core.documents import load_model

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_recipe_and_rig_are_valid() -> None:
    recipe_text, rig_text = blocks("yaml")
    recipe = load_model(Recipe, recipe_text, "README.md")
    assert make_plan(recipe, realistic_rig()).frames > 0
    rig = load_model(Rig, rig_text, "README.md")
    check_drivers(rig)
    assert rig.simulator is None


def test_every_command_exists() -> None:
    shown = re.findall(r"^\$ pyrotome (\w+)", TEXT, re.MULTILINE)
    assert len(shown) >= 8
    for command in set(shown):
        done = subprocess.run(
            [sys.executable, "-m", "pyrotome.daemon", command, "--help"],
            capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)


def test_every_file_that_is_named_is_there() -> None:
    for name in re.findall(r"(?:examples|docs|daemon|drivers|analysis)/[\w./-]+\w", TEXT):
        assert (ROOT / name).exists(), name


def test_the_code_reads_a_run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python")
    with h5py.File(tmp_path / "run.nxs", "w") as file:
        file["series_001/instrument/detector/data"] = [[[0]]]
        file["series_001/sample/rotation_angle"] = [0.0]
        file["entry/telemetry/heater/temperature_c/value"] = [20.0]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
