"""The pages of docs/ are right: their code runs, their rigs are valid, nothing is missing."""

import ast
import asyncio
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main
import yaml
from foreign_programs import free_port
from pydantic import BaseModel

from pyrotome.daemon.cli.app import app
from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.drivers.registry import check_drivers, installed
from pyrotome.protocols.config.faults import FAULTS, parse_fault
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import ROLES, Rig, load_rig, simulated_rig
from pyrotome.protocols.core.documents import load_model

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "decisions")
TOP = sorted(ROOT.glob("*.md"))
MAKEFILE = (ROOT / "Makefile").read_text()
RIGS = (ROOT / "docs" / "how-to" / "rigs.md").read_text()


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language; `text` is that of blocks without one."""
    return [text for found, text in fences(page) if (found or "text") == language]


def fences(page: Path) -> list[tuple[str, str]]:
    """Languages and texts of all fenced blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def named(page: Path) -> str:
    return page.stem


def test_there_are_pages():
    assert {"drivers", "rigs", "steps"} <= {page.stem for page in PAGES}


def test_every_block_has_a_language_that_is_checked():
    for page in PAGES:
        assert {language for language, _ in fences(page)} <= {"", "python", "yaml", "toml"}


@pytest.mark.parametrize("page", PAGES, ids=named)
async def test_the_python_runs(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    space: dict[str, Any] = {"__name__": f"docs.{page.stem}"}
    for number, block in enumerate(blocks(page, "python"), 1):
        where = f"{page.name}, block {number}"
        # A daemon may be at work on the default port of this computer, and never cease to publish.
        text = block.replace("127.0.0.1:5571", f"127.0.0.1:{free_port()}")
        code = compile(text, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        async with asyncio.timeout(60):
            result = eval(code, space)
            if inspect.isawaitable(result):
                await result
    await asyncio.sleep(0.05)


def as_rig(text: str) -> Rig:
    """A whole rig, or one in which a part replaces that of the simulated microscope."""
    body = yaml.safe_load(text)
    if "name" not in body:
        body = {**simulated_rig().model_dump(by_alias=True), **body}
    return load_model(Rig, yaml.safe_dump(body), "docs")


def as_recipe(part: dict[str, Any]) -> Recipe:
    """A whole recipe, or one in which a part replaces that of the quickstart, untracked."""
    whole = yaml.safe_load((ROOT / "examples" / "recipes" / "quickstart.yaml").read_text())
    del whole["track"]
    whole["steps"] = [step for step in whole["steps"] if "calibrate" not in step]
    return load_model(Recipe, yaml.safe_dump({**whole, **part}), "docs")


def rig_that_tracks() -> Rig:
    """The simulated microscope whose beam shift is calibrated."""
    return load_rig(ROOT / "examples" / "rigs" / "realistic.yaml")[0]


def rig_for(body: dict[str, Any]) -> Rig:
    """The simulated microscope, or one that has what a recipe needs."""
    if {"calibrate": "pixel"} in body.get("steps", []):
        return load_rig(ROOT / "examples" / "rigs" / "atoms.yaml")[0]
    return rig_that_tracks() if "track" in body else simulated_rig()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_yaml_is_valid(page):
    for text in blocks(page, "yaml"):
        body = yaml.safe_load(text)
        if "steps" in body or "analysis" in body:
            make_plan(as_recipe(body), rig_for(body))
            continue
        rig = as_rig(text)
        known = [role for role in ROLES if rig.device(role).driver in installed()]
        strange = {rig.device(role).driver for role in set(ROLES) - set(known)}
        assert strange <= {"blanker-box"}, text  # that is being written on the page
        if not strange:
            check_drivers(rig)
        for role in known:
            for name, value in rig.device(role).options.items():
                assert not name.endswith("_file") or (ROOT / value).exists(), value


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_toml_is_valid(page):
    for text in blocks(page, "toml"):
        groups = tomllib.loads(text)["project"]["entry-points"]
        assert set(groups) <= {"pyrotome.drivers", "pyrotome.steps"}
        assert all(groups.values())


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_commands_exist_and_their_files_are_there(page):
    commands = typer.main.get_command(app).commands
    for block in blocks(page, "text"):
        for line in block.splitlines():
            text, _, _ = line.partition("  #")
            if not text.startswith("$ "):
                if text.strip() and page.stem == "rigs":
                    parse_fault(text)  # typed while the simulators run
                continue
            program, name, *arguments = shlex.split(text[2:])
            if program == "make":
                assert re.search(rf"^{name}:", MAKEFILE, re.MULTILINE), line
            if program.endswith("python") and name.endswith(".py"):
                assert (ROOT / name).exists(), line
            if program != "pyrotome":
                continue
            command = commands[name]
            if isinstance(command, typer.core.TyperGroup):
                command = command.commands[arguments.pop(0)]
            known = {option for p in command.params for option in p.opts}
            for word, after in pairwise([*arguments, ""]):
                if word.startswith("-"):
                    assert word in known, line
                if word == "--fault":
                    parse_fault(after)
                if word.startswith("examples/"):
                    assert (ROOT / word).exists(), line


@pytest.mark.parametrize(
    "line",
    [
        line[2:].partition("  #")[0]
        for page in PAGES
        for block in blocks(page, "text")
        for line in block.splitlines()
        if line.startswith(("$ pyrotome check", "$ pyrotome drivers", "$ pyrotome steps"))
    ],
)
def test_harmless_commands_work(line):
    done = subprocess.run(
        [sys.executable, "-m", "pyrotome.daemon", *shlex.split(line)[1:]],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_file_that_is_named_is_there():
    for page in PAGES:
        for name in re.findall(
            r"`((?:examples|docs|daemon|drivers|tests|simulators)/[\w./-]+\w)`", page.read_text()
        ):
            assert (ROOT / name).exists(), (page.name, name)
        for name in re.findall(r"`(pyrotome(?:\.\w+)+)`", page.read_text()):
            if name != "pyrotome.drivers":
                place = ROOT / Path(*name.split(".")[1:])
                assert place.is_dir() or place.with_suffix(".py").exists(), name


# docs/how-to/rigs.md leaves nothing out.


def keys_of(model: type[BaseModel]) -> set[str]:
    """Keys of a model and of the models in it, as they are written."""
    found: set[str] = set()
    for name, information in model.model_fields.items():
        found.add(information.alias or name)
        for inner in (information.annotation, *getattr(information.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found |= keys_of(inner)
    return found


def test_every_key_of_a_rig_stands_on_the_page():
    missing = {key for key in keys_of(Rig) if not re.search(rf"\b{key}\b", RIGS)}
    assert not missing


def test_every_limit_has_its_row():
    for role in ROLES:
        limits = Rig.model_fields[role].annotation.model_fields["limits"].annotation
        for name, information in limits.model_fields.items():
            assert f"`{role}.limits.{information.alias or name}`" in RIGS


def test_every_driver_and_each_of_its_options_stands_on_the_page():
    for name, point in installed().items():
        if not point.value.startswith("pyrotome."):
            continue
        assert re.search(rf"^### .*`{name}`", RIGS, re.MULTILINE), name
        for option in point.load().Options.model_fields:
            assert re.search(rf"^\| .*`{option}`", RIGS, re.MULTILINE), (name, option)


def test_no_option_stands_on_the_page_that_no_driver_has():
    options = {
        option for point in installed().values() for option in point.load().Options.model_fields
    }
    sections = RIGS.split("## Heaters")[1].split("## Simulated rigs")[0]
    for row in re.findall(r"^\| (`.*?) \|", sections, re.MULTILINE):
        for option in re.findall(r"`(\w+)`", row):
            assert option in options, option


def test_every_fault_stands_on_the_page():
    for name in FAULTS:
        assert name in RIGS


def test_the_examples_are_valid_rigs():
    for path in sorted((ROOT / "examples" / "rigs").glob("*.yaml")):
        check_drivers(load_rig(path)[0])


@pytest.mark.parametrize("page", [*PAGES, *TOP], ids=named)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), (page.name, target)


@pytest.mark.parametrize("page", [*PAGES, *TOP], ids=named)
def test_every_name_that_is_linked_stands_in_its_file(page):
    """A link such as [`Engine.run`](../../daemon/run/engine.py) names a definition in that file.

    A link may also name the file itself.
    """
    for name, target in re.findall(r"\[`([\w.]+)`\]\(([^)#:]+\.py)\)", page.read_text()):
        text = (page.parent / target).read_text()
        for part in name.split(".") if name != Path(target).stem else ():
            assert re.search(rf"(def|class) {part}\b|^\s*{part}\b.*=", text, re.MULTILINE), name
