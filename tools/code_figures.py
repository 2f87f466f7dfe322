"""Count how a package is laid out: files, functions, classes, names, docstrings, imports.

Figures come from the syntax tree (``ast``) and from the import graph (``grimp``); the measured
code is neither imported nor executed.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from import_graph import (
    find_cycles,
    find_upward_imports,
    folder_edges,
    import_edges,
    read_layers,
)

MOST_FILES = 15
MOST_LINES = 450
MOST_FUNCTION_LINES = 60
MOST_METHODS = 15
# Files of compiled inner loops, which are long by nature.
_KERNEL_FILE = re.compile(r"(^|_)kernels$|^simd$")
# A section on parameters in the style of numpydoc, Google or Sphinx.
_PARAMETERS = re.compile(r"^\s*(Parameters\s*\n\s*-{3,}|Args:|Arguments:|:param )", re.MULTILINE)

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file of a package."""

    path: PurePosixPath
    lines: int
    tree: ast.Module

    @property
    def is_kernel(self) -> bool:
        """Whether the file holds compiled inner loops, by its name."""
        return _KERNEL_FILE.search(self.path.stem) is not None


@dataclass(frozen=True)
class Function:
    """One function or method, and where it stands."""

    name: str
    node: FunctionNode
    is_public: bool
    in_class: bool

    @property
    def lines(self) -> int:
        """Lines from ``def`` to the last statement, docstring included."""
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def code_lines(self) -> int:
        """Lines from ``def`` to the last statement without the docstring."""
        first = self.node.body[0]
        is_docstring = (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        )
        if not is_docstring:
            return self.lines
        return self.lines - ((first.end_lineno or first.lineno) - first.lineno + 1)

    @property
    def arguments(self) -> int:
        """Number of arguments without ``self`` or ``cls``."""
        given = self.node.args
        count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
        count += (given.vararg is not None) + (given.kwarg is not None)
        return count - (self.in_class and not _decorated(self.node, "staticmethod"))

    @property
    def has_docstring(self) -> bool:
        """Whether it has a docstring."""
        return ast.get_docstring(self.node) is not None

    @property
    def documents_parameters(self) -> bool:
        """Whether its docstring has a section on parameters."""
        return _PARAMETERS.search(ast.get_docstring(self.node) or "") is not None


@dataclass
class House:
    """Everything that is counted in one package; lists name what is counted."""

    title: str
    files: int = 0
    lines: int = 0
    files_per_folder: Counter[str] = field(default_factory=Counter[str])
    long_files: list[str] = field(default_factory=list[str])
    long_kernels: list[str] = field(default_factory=list[str])
    functions: int = 0
    long_functions: list[str] = field(default_factory=list[str])
    long_bodies: list[str] = field(default_factory=list[str])
    classes: int = 0
    big_classes: list[str] = field(default_factory=list[str])
    class_names_twice: list[str] = field(default_factory=list[str])
    file_names_twice: list[str] = field(default_factory=list[str])
    public_functions: int = 0
    without_docstring: list[str] = field(default_factory=list[str])
    public_with_arguments: int = 0
    without_parameters: list[str] = field(default_factory=list[str])
    upward_imports: list[str] | None = None
    excepted_imports: list[str] = field(default_factory=list[str])
    folder_cycles: list[str] = field(default_factory=list[str])
    module_cycles: list[str] = field(default_factory=list[str])


# --- files, functions, classes ------------------------------------------------------------------


def read_sources(folder: Path) -> list[Source]:
    """Parse every Python file below a package's folder."""
    sources: list[Source] = []
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        relative = PurePosixPath(path.relative_to(folder).as_posix())
        sources.append(Source(relative, text.count("\n"), ast.parse(text)))
    return sources


def _decorated(node: FunctionNode, name: str) -> bool:
    found = (d.attr if isinstance(d, ast.Attribute) else d for d in node.decorator_list)
    return any(d == name or (isinstance(d, ast.Name) and d.id == name) for d in found)


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def iter_functions(tree: ast.Module, file: str) -> Iterator[Function]:
    """Yield every function and method, nested ones too; overloads and setters do not count."""

    def walk(node: ast.AST, prefix: str, is_public: bool, in_class: bool) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FunctionNode):
                if not _decorated(child, "overload") and not _decorated(child, "setter"):
                    name = f"{file}:{child.lineno} {prefix}{child.name}"
                    yield Function(name, child, is_public and _is_public(child.name), in_class)
                yield from walk(child, f"{prefix}{child.name}.", False, False)
            elif isinstance(child, ast.ClassDef):
                inner = f"{prefix}{child.name}."
                yield from walk(child, inner, is_public and _is_public(child.name), True)
            else:
                yield from walk(child, prefix, is_public, in_class)

    yield from walk(tree, "", True, False)


def iter_classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Yield every class, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def count_methods(node: ast.ClassDef) -> int:
    """Count the names of methods and properties that a class defines itself."""
    return len({child.name for child in node.body if isinstance(child, FunctionNode)})


def _repeated(places: Mapping[str, list[str]]) -> list[str]:
    return [
        f"{name}: {', '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1
    ]


def measure_sources(title: str, sources: Sequence[Source]) -> House:
    """Count files, functions, classes, names and docstrings."""
    house = House(title, files=len(sources), lines=sum(s.lines for s in sources))
    class_places: dict[str, list[str]] = defaultdict(list)
    file_places: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        path = source.path.as_posix()
        house.files_per_folder[source.path.parent.as_posix()] += 1
        if source.lines > MOST_LINES:
            found = house.long_kernels if source.is_kernel else house.long_files
            found.append(f"{path} {source.lines}")
        if not source.path.stem.startswith("__"):
            file_places[source.path.name].append(source.path.parent.as_posix())
        for function in iter_functions(source.tree, path):
            _add_function(house, function)
        for node in iter_classes(source.tree):
            house.classes += 1
            methods = count_methods(node)
            if methods > MOST_METHODS:
                house.big_classes.append(f"{path}:{node.lineno} {node.name} {methods}")
            if _is_public(node.name):
                class_places[node.name].append(path)
    house.class_names_twice = _repeated(class_places)
    house.file_names_twice = _repeated(file_places)
    return house


def _add_function(house: House, function: Function) -> None:
    house.functions += 1
    if function.lines > MOST_FUNCTION_LINES:
        house.long_functions.append(f"{function.name} {function.lines}")
    if function.code_lines > MOST_FUNCTION_LINES:
        house.long_bodies.append(f"{function.name} {function.code_lines}")
    if not function.is_public:
        return
    house.public_functions += 1
    if not function.has_docstring:
        house.without_docstring.append(function.name)
    if function.arguments >= 2:
        house.public_with_arguments += 1
        if not function.documents_parameters:
            house.without_parameters.append(function.name)


def measure_tree(title: str, package: str, parent: Path, pyproject: str | None = None) -> House:
    """Measure the package in a folder.

    Parameters
    ----------
    title : str
        Heading of its column.
    package : str
        Name of the package.
    parent : Path
        The folder that holds the package's folder.
    pyproject : str, optional
        Text of its ``pyproject.toml``, where the layers are declared.

    Returns
    -------
    House
        The figures.
    """
    house = measure_sources(title, read_sources(parent / package))
    edges = import_edges(package, parent)
    packages = {m for m in edges if (parent / m.replace(".", "/") / "__init__.py").is_file()}
    house.module_cycles = [" <-> ".join(cycle) for cycle in find_cycles(edges)]
    house.folder_cycles = [
        " <-> ".join(cycle) for cycle in find_cycles(folder_edges(edges, packages))
    ]
    contracts = read_layers(pyproject) if pyproject is not None else []
    if contracts:
        house.upward_imports = find_upward_imports(edges, contracts)
        house.excepted_imports = sorted({name for c in contracts for name in c.excepted})
    return house
