"""The counting behind ``make house``, on small packages whose figures are counted by hand."""

from __future__ import annotations

import ast
import textwrap
from dataclasses import replace
from pathlib import Path

import house
import pytest
from code_figures import (
    MOST_FILES,
    MOST_LINES,
    House,
    count_methods,
    iter_classes,
    iter_functions,
    measure_sources,
    measure_tree,
    read_sources,
)
from hypothesis import given
from hypothesis import strategies as st
from import_graph import (
    find_cycles,
    find_upward_imports,
    folder_edges,
    import_edges,
    read_layers,
)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def parse(text: str) -> ast.Module:
    return ast.parse(textwrap.dedent(text))


EXAMPLE = '''
    from typing import overload

    def area(width_m, height_m):
        """Area of a rectangle.

        Parameters
        ----------
        width_m, height_m : float
            Its sides.
        """
        def inner(a, b):
            return a * b
        return inner(width_m, height_m)

    @overload
    def both(a: int, b: int) -> int: ...
    def both(a, b):
        """Google style.

        Args:
            a: one
            b: two
        """

    def bare(a, *, b): ...

    def _private(a, b): ...

    class Shape:
        @property
        def side(self):
            """One argument is not enough for a section."""
        @side.setter
        def side(self, value): ...
        @staticmethod
        def of(a, b): ...
        def scale(self, factor): ...
        class _Hidden:
            def method(self, a, b): ...
'''


def test_functions_are_counted_by_name_and_place() -> None:
    functions = list(iter_functions(parse(EXAMPLE), "shapes.py"))
    names = [f.name.rpartition(" ")[2] for f in functions]
    assert names == [
        "area", "area.inner", "both", "bare", "_private",
        "Shape.side", "Shape.of", "Shape.scale", "Shape._Hidden.method",
    ]  # fmt: skip
    assert [n for n, f in zip(names, functions, strict=True) if f.is_public] == [
        "area", "both", "bare", "Shape.side", "Shape.of", "Shape.scale",
    ]  # fmt: skip
    assert [f.arguments for f in functions] == [2, 2, 2, 2, 2, 0, 2, 1, 2]
    area = functions[0]
    assert (area.lines, area.code_lines) == (11, 4)
    assert area.name == "shapes.py:4 area"


def test_docstrings_and_parameter_sections_are_counted_for_public_names(tmp_path: Path) -> None:
    figures = measure_sources("", read_sources(write(tmp_path, {"shapes.py": EXAMPLE})))
    assert figures.functions == 9
    assert figures.public_functions == 6
    assert [f.rpartition(" ")[2] for f in figures.without_docstring] == [
        "bare", "Shape.of", "Shape.scale",
    ]  # fmt: skip
    assert figures.public_with_arguments == 4
    assert [f.rpartition(" ")[2] for f in figures.without_parameters] == ["bare", "Shape.of"]


def test_a_property_and_its_setter_are_one_method() -> None:
    shape, hidden = iter_classes(parse(EXAMPLE))
    assert (count_methods(shape), count_methods(hidden)) == (3, 1)


def test_files_and_names_are_counted(tmp_path: Path) -> None:
    long = "x = 1\n" * (MOST_LINES + 1)
    methods = "".join(f"    def m{n}(self): ...\n" for n in range(16))
    files = {
        "__init__.py": "",
        "a/__init__.py": "",
        "a/unit.py": "class Same: ...\nclass _Own: ...\n",
        "a/long.py": long,
        "a/block_kernels.py": long,
        "a/enough.py": "x = 1\n" * MOST_LINES,
        "b/__init__.py": "",
        "b/unit.py": "class Same: ...\nclass _Own: ...\n",
        "b/big.py": f"class Big:\n{methods}",
    }
    figures = measure_sources("", read_sources(write(tmp_path, files)))
    assert figures.files == 9
    assert dict(figures.files_per_folder) == {".": 1, "a": 5, "b": 3}
    assert figures.long_files == [f"a/long.py {MOST_LINES + 1}"]
    assert figures.long_kernels == [f"a/block_kernels.py {MOST_LINES + 1}"]
    assert figures.big_classes == ["b/big.py:1 Big 16"]
    assert figures.class_names_twice == ["Same: a/unit.py, b/unit.py"]
    assert figures.file_names_twice == ["unit.py: a, b"]


PACKAGE = {
    "bakery/__init__.py": "",
    "bakery/shop/__init__.py": "",
    "bakery/shop/counter.py": "from bakery.oven import heat\nfrom . import till",
    "bakery/shop/till.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from .counter import Counter
        """,
    "bakery/oven/__init__.py": "",
    "bakery/oven/heat.py": "def f():\n    from ..shop.till import price\n",
    "pyproject.toml": """
        [[tool.importlinter.contracts]]
        name = "floors"
        type = "layers"
        containers = ["bakery"]
        layers = ["shop | office", "oven"]
        [[tool.importlinter.contracts]]
        name = "not layers"
        type = "forbidden"
        [[tool.importlinter.contracts]]
        name = "with an exception"
        type = "layers"
        layers = ["bakery.shop", "bakery.oven"]
        ignore_imports = ["bakery.oven.heat -> bakery.shop.open"]
        """,
}


def test_imports_give_cycles_and_arrows(tmp_path: Path) -> None:
    write(tmp_path, PACKAGE)
    figures = measure_tree("", "bakery", tmp_path, (tmp_path / "pyproject.toml").read_text())
    # Imports for type checkers and inside functions count as any other.
    assert figures.module_cycles == [
        "bakery.oven.heat <-> bakery.shop.counter <-> bakery.shop.till"
    ]
    assert figures.folder_cycles == ["bakery.oven <-> bakery.shop"]
    assert figures.upward_imports == ["bakery.oven.heat -> bakery.shop.till"]
    assert import_edges("bakery", tmp_path)["bakery.shop.counter"] == {
        "bakery.oven.heat", "bakery.shop.till",
    }  # fmt: skip


def test_a_tree_without_layers_says_so(tmp_path: Path) -> None:
    write(tmp_path, PACKAGE)
    assert measure_tree("", "bakery", tmp_path).upward_imports is None


def test_layers_hold_for_siblings_and_not_for_other_modules() -> None:
    contract, other = read_layers(textwrap.dedent(PACKAGE["pyproject.toml"]))
    assert other.excepted == {"bakery.oven.heat -> bakery.shop.open"}
    edges = {
        "bakery.shop.till": {"bakery.office", "bakery.shop.counter", "bakery.oven"},
        "bakery.shop2": {"bakery.shop"},
        "bakery.oven": {"bakery.shop2"},
    }
    upward = "bakery.shop.till -> bakery.office"
    assert find_upward_imports(edges, [contract]) == [upward]
    excepted = replace(contract, excepted=frozenset({upward}))
    assert find_upward_imports(edges, [excepted]) == []


def test_a_folder_is_the_package_that_holds_a_module() -> None:
    edges = {"p": {"p.q"}, "p.q": set[str](), "p.a": {"p.q.b", "p"}, "p.q.b": {"p.a"}}
    assert folder_edges(edges, {"p", "p.q"}) == {"p": {"p.q"}, "p.q": {"p"}}


graphs = st.integers(1, 8).flatmap(
    lambda n: st.dictionaries(
        st.integers(0, n - 1).map(str), st.sets(st.integers(0, n - 1).map(str)), max_size=n
    )
)


@given(graphs)
def test_cycles_are_the_groups_that_reach_one_another(edges: dict[str, set[str]]) -> None:
    def reached(start: str) -> set[str]:
        found: set[str] = set()
        new = set(edges.get(start, ()))
        while new:
            found |= new
            new = {t for node in new for t in edges.get(node, ())} - found
        return found

    reach = {node: reached(node) for node in edges}
    expected = {
        frozenset({a} | {b for b in edges if b in reach[a] and a in reach[b]}) for a in edges
    }
    assert {frozenset(c) for c in find_cycles(edges)} == {g for g in expected if len(g) > 1}


def test_every_bound_of_ours_is_held() -> None:
    good = House("", upward_imports=[])
    good.files_per_folder["a"] = MOST_FILES
    good.long_kernels.append("kernels.py 900")
    assert house.broken_bounds(good) == []
    bad = House("", upward_imports=["a -> b"])
    bad.files_per_folder["a"] = MOST_FILES + 1
    bad.long_files.append("a.py 451")
    bad.folder_cycles.append("a <-> b")
    bad.module_cycles.append("a.x <-> b.y")
    assert len(house.broken_bounds(bad)) == 5


def test_the_table_has_a_column_for_each_package(capsys: pytest.CaptureFixture[str]) -> None:
    figures = House("this tree", files=2, lines=30, functions=10, long_functions=["f"])
    lines = house.table([figures, House("other")]).splitlines()
    assert len(lines) == 1 + len(house.ROWS)
    assert lines[0].split() == ["this", "tree", "other"]
    assert "1 of 10 (10.0 %)" in "\n".join(lines)
    with pytest.raises(SystemExit):
        house.main(["--against", "no-such-commit"])
    assert "no-such-commit is neither a folder nor a commit" in capsys.readouterr().err


def test_this_tree_is_measured_whole(tmp_path: Path) -> None:
    figures = house.measure_checkout("this tree", house.ROOT, tmp_path)
    written = sum(len(list((house.ROOT / p).rglob("*.py"))) for p in house.OUR_PARTS) + 1
    assert figures.files == written
    assert figures.upward_imports is not None, "the layers of pyproject.toml were not found"
