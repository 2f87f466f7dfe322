"""An old experiment gets its temperatures: `import --heater-log`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyrotome.analysis.commands.export import export_heater
from pyrotome.analysis.commands.import_ import ImportRequest, carry_out, import_command
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.runfile.reader import open_run
from pyrotome.protocols.runfile.summary import inspect_file

COUNTS = np.random.default_rng(3).poisson(20, (5, 8, 11)).astype(np.uint16)
TILTS = np.array([-40.0, -20.0, 0.0, 20.5, 40.0])


def a_stack(folder: Path) -> Path:
    path = folder / "stack.npz"
    np.savez(path, counts=COUNTS, tilt_deg=TILTS, pixel_nm=2.0)
    return path


def a_csv(folder: Path) -> Path:
    """20 degC, standby at 200 degC, 5 s at 350 degC, standby; the first frame at zero."""
    time_s = np.arange(-300.0, 60.0, 0.5)
    temperature_c = np.interp(
        time_s, [-250, -249, -100, -99, -94, -93], [20, 200, 200, 350, 350, 200]
    )
    path = folder / "heater.csv"
    rows = (f"{t},{c:.3f}" for t, c in zip(time_s, temperature_c, strict=True))
    path.write_text("\n".join(["time_s,temperature_c", *rows]) + "\n")
    return path


def test_holds_and_temperatures_of_an_old_experiment(tmp_path: Path) -> None:
    target = tmp_path / "run.nxs"
    request = ImportRequest(a_stack(tmp_path), target, heater_log=a_csv(tmp_path), interval_s=2.0)
    report = carry_out(request)
    assert "frames at 200.0 to 200.0 degC" in report.read
    assert "1 hold in the log, 1 before the series" in report.read
    found = inspect_file(target)
    (hold,) = found["holds"]
    assert hold["achieved_s"] == pytest.approx(6.0, abs=0.01)  # between the midpoints
    assert hold["median_c"] == pytest.approx(350, abs=0.1)
    (series,) = found["series"]
    assert series["temperature_mean_c"] == pytest.approx(200)
    assert series["hold_total_s"] == hold["achieved_s"]
    with open_run(target) as run:
        log = run.telemetry["heater"]["temperature_c"]
        assert len(log) == 720
        assert log.units == "degC"
        assert run.series[1].time_s.tolist() == [300, 302, 304, 306, 308]


def test_a_log_that_was_exported_comes_in_again(tmp_path: Path) -> None:
    first = tmp_path / "first.nxs"
    carry_out(ImportRequest(a_stack(tmp_path), first, heater_log=a_csv(tmp_path)))
    with open_run(first) as run:
        table, _ = export_heater(run, tmp_path / "log")
        before = run.telemetry["heater"]["temperature_c"]
        again = tmp_path / "again.nxs"
        request = ImportRequest(
            a_stack(tmp_path), again, heater_log=table, started=300.0, interval_s=1.0
        )
        carry_out(request)
    with open_run(again) as run:
        after = run.telemetry["heater"]["temperature_c"]
        assert np.allclose(after.values, before.values)
        assert np.allclose(after.time_s, before.time_s)
        assert [round(h.target_c) for h in run.holds] == [350]


def test_times_of_an_mdoc(tmp_path: Path, shared_cases: Path) -> None:
    target = tmp_path / "run.nxs"
    request = ImportRequest(
        a_stack(tmp_path), target, shared_cases / "stack.mrc.mdoc", heater_log=a_csv(tmp_path)
    )
    carry_out(request)
    with open_run(target) as run:
        series = run.series[1]
        assert np.allclose(np.diff(series.time_s), 1.0)
        assert np.allclose(series.temperature_c, 200)
        assert str(run.started).startswith("202")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"started": "120 s"}, "give --heater-log too"),
        ({"heater_log": True, "started": "yesterday"}, "'yesterday' is neither a moment such as"),
        ({"heater_log": True, "frame_interval": "-1 s"}, "'-1 s' is not above zero"),
        ({"pixel_size": "1e400 nm"}, "not a finite quantity"),
        ({"pixel_size": "0 nm"}, "is not above zero"),
        ({"tilt_axis": "400 deg"}, "beyond 360 deg"),
        ({"tilt_axis": "84.8"}, "has no unit|unit"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    stack, log = a_stack(tmp_path), a_csv(tmp_path)
    if options.get("heater_log"):
        options = {**options, "heater_log": log}
    with pytest.raises(BadInput, match=words):
        import_command(stack, tmp_path / "run.nxs", **options)
    assert not (tmp_path / "run.nxs").exists()


def test_the_command_line(cli: Any, tmp_path: Path) -> None:
    stack, log = a_stack(tmp_path), a_csv(tmp_path)
    done = cli(
        "import", str(stack), "-o", "run.nxs", "--heater-log", str(log), "--frame-interval", "2 s",
        "--tilt-axis", "84.8 deg",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tilt axis 84.8 deg (--tilt-axis)" in done.stdout
    assert len(cli.inspect("run.nxs")["holds"]) == 1
