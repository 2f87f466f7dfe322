"""Every public name of the analysis can be imported, is documented, and its example runs."""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

import numpy as np
import pytest

ROOMS = (
    "core", "io", "denoise", "tomography", "alignment", "atoms", "particles", "report", "motion",
    "sharpness", "spectra", "structure", "tracking", "lattice", "views",
)  # fmt: skip
# Sections of numpydoc that list names, types and descriptions.
_HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)
_ENTRY = re.compile(r"^(\S[^:\n]*?)(?: : .*)?$", re.MULTILINE)


def room(name):
    return importlib.import_module(f"pyrotome.analysis.{name}")


def sections(thing):
    """Sections of a docstring by title; the text before the first is under the empty title."""
    parts = _HEADING.split(inspect.getdoc(thing) or "")
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def listed(section):
    """Names that a Parameters or Attributes section describes."""
    names = set()
    for entry in _ENTRY.findall(section):
        names |= {name.strip(" *") for name in entry.split(",")}
    return names


def public():
    return [(name, public_name) for name in ROOMS for public_name in room(name).__all__]


def functions_and_classes():
    return [(name, thing) for name, thing in public() if callable_thing(getattr(room(name), thing))]


def callable_thing(thing):
    return inspect.isclass(thing) or inspect.isfunction(thing)


def needs_a_run_file(thing):
    """Whether an example would be long: the tests of these functions write a run file first."""
    return bool({"run", "scratch", "results"} & set(inspect.signature(thing).parameters))


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_names_what_it_offers_and_hides_nothing_behind_a_file(name):
    package = room(name)
    assert len(package.__all__) == len(set(package.__all__)) > 0
    assert all(getattr(package, public_name) is not None for public_name in package.__all__)
    files = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not files & set(package.__all__)
    with pytest.raises(AttributeError):
        _ = package.no_such_name


def test_importing_the_rooms_loads_no_compiler():
    rooms = ", ".join(f"pyrotome.analysis.{name}" for name in ROOMS)
    code = f"import {rooms}, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {f"pyrotome.analysis.{name}" for name in ROOMS} <= set(loaded)
    assert not {"numba", "numpy", "scipy", "SimpleITK", "matplotlib", "h5py"} & set(loaded)


@pytest.mark.parametrize(("name", "thing"), functions_and_classes())
def test_parameters_and_results_are_documented(name, thing):
    thing = getattr(room(name), thing)
    text = sections(thing)
    parameters = [
        parameter
        for parameter in inspect.signature(thing).parameters
        if parameter not in ("self", "cls")
    ]
    described = listed(text.get("Parameters", "")) | listed(text.get("Attributes", ""))
    if parameters:
        assert set(parameters) <= described
    if inspect.isfunction(thing) and thing.__annotations__.get("return") != "None":
        assert "Returns" in text or "Yields" in text
    if dataclasses.is_dataclass(thing):
        assert {field.name for field in dataclasses.fields(thing)} <= described
    assert text[""].strip().split("\n")[0].endswith(".")


@pytest.mark.parametrize(
    ("name", "thing"),
    [
        (name, thing)
        for name, thing in functions_and_classes()
        if not dataclasses.is_dataclass(getattr(room(name), thing))
        and not needs_a_run_file(getattr(room(name), thing))
    ],
)
def test_examples_run(name, thing):
    thing = getattr(room(name), thing)
    module = sys.modules[thing.__module__]
    found = doctest.DocTestFinder(recurse=False).find(
        thing, thing.__name__, globs=dict(vars(module))
    )
    examples = [example for test in found for example in test.examples]
    assert examples, "an example shows how to call it"
    messages = []
    with np.printoptions(legacy=False):
        for test in found:
            doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(
                test, out=messages.append
            )
    assert not messages, "".join(messages)
