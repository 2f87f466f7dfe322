"""Files that packages on PyPI ship with their tests: each is read or refused, never a traceback.

The packages are installed for other reasons or not at all; where one is absent its files are
skipped. `PYROTOME_REAL_FILES` names a folder with more of them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrotome.analysis.commands.import_ import ImportRequest, carry_out
from pyrotome.analysis.io.heater_logs import read_heater_log
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.runfile.reader import open_run

_PACKAGES = {"etspy": "tests/test_data", "rsciio": "tests/data"}
_ENDINGS = (
    ".mrc", ".ali", ".st", ".rec", ".npz", ".emd", ".nxs", ".h5", ".tif", ".tiff", ".dm3", ".dm4",
    ".ser", ".emi", ".hspy", ".csv", ".dens",
)  # fmt: skip
_LARGEST = 60_000_000


def real_files() -> Iterator[Path]:
    """Every such file that is at hand."""
    folders: list[Path] = []
    for package, below in _PACKAGES.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            folders.append(Path(spec.submodule_search_locations[0]) / below)
    if os.environ.get("PYROTOME_REAL_FILES"):
        folders.append(Path(os.environ["PYROTOME_REAL_FILES"]))
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in _ENDINGS and path.stat().st_size < _LARGEST:
                yield path


def outcome(path: Path, target: Path, **given: Any) -> str:
    """What `import` says of a file: what was read, or why not."""
    if path.suffix.lower() in {".csv", ".dens"}:
        try:
            log = read_heater_log(path)
        except BadInput as error:
            return f"refused: {error.problem}"
        return f"read: {log.form} log of {len(log.time_s)} samples"
    beside = [path.with_suffix(s) for s in (".rawtlt", ".mdoc") if path.suffix in {".mrc", ".ali"}]
    tilts = next((each for each in beside if each.is_file()), None)
    try:
        report = carry_out(ImportRequest(path, target, tilts, **given))
    except BadInput as error:
        assert not target.exists(), "no half of a file"
        if "no pixel size" in error.problem and not given:
            return outcome(path, target, pixel_nm=1.0) + " (pixel size given)"
        return f"refused: {error.problem}"
    with open_run(target) as run:
        assert run.series[1].frame_count == report.frames
    return f"read: {report.frames} frames; " + "; ".join(report.read)


@pytest.mark.parametrize("path", list(real_files()) or [None], ids=lambda p: getattr(p, "name", ""))
def test_real_files(
    path: Path | None, tmp_path: Path, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if path is None:
        pytest.skip("neither etspy nor PYROTOME_REAL_FILES is at hand")
    said = outcome(path, tmp_path / "run.nxs")
    record_property("outcome", said)
    with capsys.disabled():
        print(f"\n{path.parent.name}/{path.name} | {said}")
