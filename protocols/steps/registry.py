"""Find analysis steps by name through the entry-point group ``pyrotome.steps``."""

from __future__ import annotations

import difflib
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .base import Step
from .results import ResultSpec

GROUP = "pyrotome.steps"
# The steps of this package in the order of a usual pipeline. They are entry points as well; the
# table serves a source tree whose installation is older than its steps.
_OWN = {
    "correct": "pyrotome.analysis.steps.correct:CorrectStep",
    "denoise": "pyrotome.analysis.steps.denoise:DenoiseStep",
    "merge": "pyrotome.analysis.steps.merge:MergeStep",
    "background": "pyrotome.analysis.steps.background:BackgroundStep",
    "align": "pyrotome.analysis.steps.align:AlignStep",
    "reconstruct": "pyrotome.analysis.steps.reconstruct:ReconstructStep",
    "segment": "pyrotome.analysis.steps.segment:SegmentStep",
    "measure": "pyrotome.analysis.steps.measure:MeasureStep",
    "trace": "pyrotome.analysis.steps.trace:TraceStep",
}


class UnknownStep(ValueError):
    """No step of this name is installed, or it cannot be loaded."""


def installed() -> dict[str, EntryPoint]:
    """Entry points of every installed step, by name: pyrotome's own first, then alphabetically."""
    own = {name: EntryPoint(name, value, GROUP) for name, value in _OWN.items()}
    return own | {point.name: point for point in _others(tuple(sys.path)) if point.name not in own}


@lru_cache(maxsize=8)
def _others(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    del path  # reading the metadata of all packages takes tens of milliseconds
    return tuple(sorted(entry_points(group=GROUP), key=lambda point: point.name))


def step_class(name: str) -> type[Step[Any]]:
    """Find the class of a step.

    Parameters
    ----------
    name : str
        As written in a recipe.

    Returns
    -------
    type of Step
        Loading it must not load numba or scipy: steps import those in their generators.

    Raises
    ------
    UnknownStep
        If no such step is installed, it cannot be imported, or it is not a step.
    """
    points = installed()
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"installed steps: {', '.join(points)}"
        raise UnknownStep(f"unknown analysis step; {hint}")
    try:
        found = points[name].load()
    except Exception as error:
        raise UnknownStep(f"the step '{name}' cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Step)):
        raise UnknownStep(
            f"the step '{name}' cannot be used: {points[name].value} is not a subclass of "
            "pyrotome.protocols.steps.Step"
        )
    if found.name != name:
        raise UnknownStep(
            f"the step '{name}' cannot be used: {points[name].value} calls itself '{found.name}'"
        )
    return found


def givers(result: str) -> list[str]:
    """Names of the installed steps that give a result with their default settings."""
    return [name for name in installed() if result in {spec.name for spec in default_outputs(name)}]


def default_outputs(name: str) -> tuple[ResultSpec, ...]:
    """Declare what a step gives with its default settings; nothing if it has no defaults."""
    try:
        cls = step_class(name)
        return cls.outputs(cls.Settings())
    except Exception:  # a step of another package that is broken or needs settings
        return ()
