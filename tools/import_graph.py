"""Which module imports which: cycles, and imports that break the declared layers."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grimp

Edges = Mapping[str, set[str]]


def import_edges(package: str, parent: Path) -> dict[str, set[str]]:
    """Which module imports which, ``TYPE_CHECKING`` and imports inside functions included.

    Parameters
    ----------
    package : str
        Name of the package.
    parent : Path
        The folder that holds the package's folder.

    Returns
    -------
    dict of str to set of str
        For each module of the package the modules of the package that it imports.
    """
    sys.path.insert(0, str(parent))
    importlib.invalidate_caches()
    try:
        graph = grimp.build_graph(package, cache_dir=None)
    finally:
        sys.path.remove(str(parent))
    return {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }


def folder_edges(edges: Edges, packages: set[str]) -> dict[str, set[str]]:
    """Which folder imports from which other one.

    Parameters
    ----------
    edges : mapping of str to set of str
        Imports between modules.
    packages : set of str
        The modules that are packages; any other module belongs to the package above it.

    Returns
    -------
    dict of str to set of str
        For each package the other packages whose files its own files import.
    """

    def folder_of(module: str) -> str:
        return module if module in packages else module.rpartition(".")[0]

    folders: dict[str, set[str]] = {package: set() for package in packages}
    for importer, imported in edges.items():
        folder = folder_of(importer)
        folders[folder] |= {folder_of(module) for module in imported} - {folder}
    return folders


def find_cycles(edges: Edges) -> list[list[str]]:
    """Find groups of nodes that import one another, in one step or in several.

    These are the strongly connected components of two nodes or more: Tarjan, "Depth-first search
    and linear graph algorithms", SIAM J. Comput. 1 (1972) 146.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    cycles: list[list[str]] = []
    for root in sorted(edges):
        if root in index:
            continue
        work = [(root, iter(sorted(edges[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, targets = work[-1]
            target = next(targets, None)
            if target is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    group = stack[stack.index(node) :]
                    del stack[stack.index(node) :]
                    on_stack -= set(group)
                    if len(group) > 1:
                        cycles.append(sorted(group))
            elif target not in index:
                index[target] = low[target] = len(index)
                stack.append(target)
                on_stack.add(target)
                work.append((target, iter(sorted(edges.get(target, ())))))
            elif target in on_stack:
                low[node] = min(low[node], index[target])
    return cycles


@dataclass(frozen=True)
class Layers:
    """One ``layers`` contract of import-linter: the highest layer first."""

    containers: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]
    excepted: frozenset[str] = frozenset()

    def place(self, module: str) -> tuple[str, int, str] | None:
        """Container, layer number and member that a module belongs to, if any."""
        for container in self.containers or ("",):
            prefix = f"{container}." if container else ""
            for number, members in enumerate(self.layers):
                for member in members:
                    root = prefix + member
                    if module == root or module.startswith(root + "."):
                        return container, number, member
        return None


def read_layers(pyproject: str) -> list[Layers]:
    """Read the ``layers`` contracts from the text of a ``pyproject.toml``."""
    contracts: list[dict[str, Any]] = (
        tomllib.loads(pyproject).get("tool", {}).get("importlinter", {}).get("contracts", [])
    )
    return [
        Layers(
            tuple(contract.get("containers", ())),
            tuple(
                tuple(m.strip(" ()") for m in re.split(r"[|:]", layer))
                for layer in contract["layers"]
            ),
            frozenset(contract.get("ignore_imports", ())),
        )
        for contract in contracts
        if contract["type"] == "layers"
    ]


def find_upward_imports(edges: Edges, contracts: Sequence[Layers]) -> list[str]:
    """Find imports that run from a layer to a higher one, or to another member of the same.

    Those that the contract itself excepts (``ignore_imports``) are left out.
    """
    found: set[str] = set()
    for contract in contracts:
        for importer, targets in edges.items():
            here = contract.place(importer)
            for target in targets:
                there = contract.place(target)
                if here is None or there is None or here[0] != there[0]:
                    continue
                if there[1] < here[1] or (there[1] == here[1] and there[2] != here[2]):
                    found.add(f"{importer} -> {target}")
        found -= contract.excepted
    return sorted(found)
