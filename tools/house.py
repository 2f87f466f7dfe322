"""Print how the code is laid out, as a table: ``make house``.

It fails where one of the bounds of this repository is broken (``code_figures.py`` has them).

    python tools/house.py                          this tree
    python tools/house.py --against adc1ea4        this tree beside an older commit
    python tools/house.py --against /path/to/tree  this tree beside another checkout
    python tools/house.py --peers                  this tree beside published packages
    python tools/house.py --list                   name everything that is counted
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from code_figures import (
    MOST_FILES,
    MOST_FUNCTION_LINES,
    MOST_LINES,
    MOST_METHODS,
    House,
    measure_tree,
)

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "pyrotome"
# The root of the repository is the package; these are its parts.
OUR_PARTS = ("__init__.py", "protocols", "drivers", "simulators", "analysis", "daemon")
# Distribution and package. Wheels are downloaded: they hold the package without its tests.
PEERS = {
    "ophyd-async": "ophyd_async",
    "libertem-live": "libertem_live",
    "fastcs": "fastcs",
    "zarr": "zarr",
}


# --- trees --------------------------------------------------------------------------------------


def measure_checkout(title: str, checkout: Path, scratch: Path) -> House:
    """Measure a checkout of this repository, whose root is the package."""
    parent = Path(tempfile.mkdtemp(dir=scratch))
    (parent / PACKAGE).mkdir()
    only_python = shutil.ignore_patterns("__pycache__", "*.so", "*.nbi", "*.nbc")
    for part in OUR_PARTS:
        source, target = checkout / part, parent / PACKAGE / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=only_python)
        else:
            shutil.copy(source, target)
    return measure_tree(title, PACKAGE, parent, (checkout / "pyproject.toml").read_text())


def measure_revision(revision: str, scratch: Path) -> House:
    """Measure a commit of this repository."""
    checkout = Path(tempfile.mkdtemp(dir=scratch))
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", revision, *OUR_PARTS, "pyproject.toml"],
        check=True,
        capture_output=True,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(checkout, filter="data")
    return measure_checkout(revision, checkout, scratch)


def measure_peer(distribution: str, package: str, scratch: Path) -> House:
    """Download a published package, without what it depends on, and measure it."""
    parent = Path(tempfile.mkdtemp(dir=scratch))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(parent)]
    subprocess.run([*pip, *options, distribution], check=True)
    (wheel,) = parent.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(parent)
    return measure_tree(f"{distribution} {wheel.name.split('-')[1]}", package, parent)


# --- table --------------------------------------------------------------------------------------


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.1f} %)" if whole else "-"


def _most_files(house: House) -> str:
    if not house.files_per_folder:
        return "-"
    folder, files = house.files_per_folder.most_common(1)[0]
    return f"{files} ({PurePosixPath(folder).name or 'root'})"


ROWS: tuple[tuple[str, Callable[[House], str]], ...] = (
    ("files, lines", lambda h: f"{h.files}, {h.lines}"),
    ("most files in a folder", _most_files),
    (f"files over {MOST_LINES} lines, without kernels", lambda h: str(len(h.long_files))),
    (f"kernel files over {MOST_LINES} lines", lambda h: str(len(h.long_kernels))),
    (
        f"functions over {MOST_FUNCTION_LINES} lines",
        lambda h: _share(len(h.long_functions), h.functions),
    ),
    (
        f"functions over {MOST_FUNCTION_LINES} lines, without docstring",
        lambda h: _share(len(h.long_bodies), h.functions),
    ),
    (f"classes over {MOST_METHODS} methods", lambda h: _share(len(h.big_classes), h.classes)),
    (
        "imports that run up in the layers",
        lambda h: "none declared" if h.upward_imports is None else str(len(h.upward_imports)),
    ),
    ("imports excepted from the layers by name", lambda h: str(len(h.excepted_imports))),
    ("import cycles among folders", lambda h: str(len(h.folder_cycles))),
    ("import cycles among modules", lambda h: str(len(h.module_cycles))),
    ("public class names defined twice or more", lambda h: str(len(h.class_names_twice))),
    ("file names used twice or more", lambda h: str(len(h.file_names_twice))),
    (
        "public functions with a docstring",
        lambda h: _share(h.public_functions - len(h.without_docstring), h.public_functions),
    ),
    (
        "of two arguments or more: with parameters",
        lambda h: _share(
            h.public_with_arguments - len(h.without_parameters), h.public_with_arguments
        ),
    ),
)


def table(houses: Sequence[House]) -> str:
    """Print figures side by side: a row for each figure, a column for each package."""
    columns = [["", *(label for label, _ in ROWS)]]
    columns += [[house.title, *(show(house) for _, show in ROWS)] for house in houses]
    widths = [max(len(cell) for cell in column) for column in columns]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    )


def listing(house: House) -> str:
    """Name everything that is counted in a package."""
    parts = {
        f"folders of more than {MOST_FILES} files": [
            f"{folder} {files}"
            for folder, files in house.files_per_folder.most_common()
            if files > MOST_FILES
        ],
        f"files over {MOST_LINES} lines": house.long_files,
        f"kernel files over {MOST_LINES} lines": house.long_kernels,
        f"functions over {MOST_FUNCTION_LINES} lines": house.long_functions,
        f"classes over {MOST_METHODS} methods": house.big_classes,
        "imports that run up in the layers": house.upward_imports or [],
        "import cycles among folders": house.folder_cycles,
        "import cycles among modules": house.module_cycles,
        "public class names defined twice or more": house.class_names_twice,
        "file names used twice or more": house.file_names_twice,
        "public functions without a docstring": house.without_docstring,
        "public functions of two arguments or more without parameters": house.without_parameters,
    }
    return "\n\n".join(
        "\n  ".join([f"{house.title}: {title} ({len(found)})", *found])
        for title, found in parts.items()
        if found
    )


def broken_bounds(house: House) -> list[str]:
    """Say which of the bounds that hold for this repository are broken, and where."""
    broken = [
        f"{folder or '.'} holds {files} files, at most {MOST_FILES} are allowed: split the folder"
        for folder, files in house.files_per_folder.items()
        if files > MOST_FILES
    ]
    broken += [
        f"{file} lines, at most {MOST_LINES} are allowed: split the file"
        for file in house.long_files
    ]
    broken += [f"import runs up in the layers: {found}" for found in house.upward_imports or []]
    broken += [f"folders import one another: {found}" for found in house.folder_cycles]
    broken += [f"modules import one another: {found}" for found in house.module_cycles]
    return broken


def _measure_other(revision_or_folder: str, scratch: Path) -> House:
    folder = Path(revision_or_folder)
    if folder.is_dir():
        return measure_checkout(revision_or_folder, folder, scratch)
    return measure_revision(revision_or_folder, scratch)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 where a bound of this repository is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--against", metavar="REV_OR_FOLDER", help="another commit or checkout to print beside"
    )
    parser.add_argument("--peers", action="store_true", help=f"print beside {', '.join(PEERS)}")
    parser.add_argument("--list", action="store_true", help="name everything that is counted")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        ours = measure_checkout("this tree", ROOT, scratch)
        houses = [ours]
        if options.against is not None:
            try:
                houses.insert(0, _measure_other(options.against, scratch))
            except (OSError, subprocess.CalledProcessError):
                parser.error(f"{options.against} is neither a folder nor a commit of pyrotome")
        if options.peers:
            houses += [measure_peer(name, package, scratch) for name, package in PEERS.items()]
    print(table(houses))
    if options.list:
        print("", *(listing(house) for house in houses), sep="\n")
    broken = broken_bounds(ours)
    for found in broken:
        print(f"broken bound: {found}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
