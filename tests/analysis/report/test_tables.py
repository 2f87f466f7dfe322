"""Tables and plots of what a run file holds, as another program reads them."""

from __future__ import annotations

import csv
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - the results' filter
import numpy as np
import pytest

from pyrotome.analysis.commands.export import export_images
from pyrotome.analysis.denoise.parameter_search import NoiseChoice, Trial
from pyrotome.analysis.particles.necks import Neck
from pyrotome.analysis.report.tables import export_table, neck_rows, write_beside, write_tuning
from pyrotome.protocols.config.pipeline import MAX_NECKS, NECK_COLUMNS
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.runfile.reader import open_run

PNG = b"\x89PNG\r\n\x1a\n"
PLANNED: list[dict[str, Any]] = [
    {"align": {}}, {"reconstruct": {"binning": 2}}, {"segment": {}}, {"measure": "necks"},
]  # fmt: skip
FIRST = Neck(1, 2, 20.0, 75.0, 150.0, 149.0, 10.0, 1.1, 20 / 75, 1.0)
SECOND = Neck(1, 2, 30.0, 76.0, 145.0, 144.0, 11.0, 1.1, 30 / 76, 145 / 152)
OTHER = Neck(2, 7, 25.0, 70.0, 141.0, 140.0, 9.0, 1.2, 25 / 70, 141 / 140)


def table_of(*necks: Neck) -> np.ndarray[Any, Any]:
    table = np.full((MAX_NECKS, len(NECK_COLUMNS)), np.nan)
    for row, neck in enumerate(necks):
        table[row] = [getattr(neck, name) for name in NECK_COLUMNS]
    return table


def shifts_of(gap: int | None = None) -> np.ndarray[Any, Any]:
    shifts = np.stack([np.arange(5) + 0.25, -np.arange(5.0)], axis=1)
    if gap is not None:
        shifts[gap] = np.nan
    return shifts


@pytest.fixture
def grown(make_run: Any) -> Path:
    """Three series with holds of 5 s and 7 s between them, measured online."""
    results = {
        ("series_001", "necks"): table_of(FIRST),
        ("series_002", "necks"): table_of(SECOND, OTHER),
        ("series_001", "shifts"): shifts_of(),
        ("series_003", "shifts"): shifts_of(gap=2),
    }
    return make_run(series=3, holds_s=(5.0, 7.0), planned=PLANNED, results=results)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def export(
    path: Path, target: Path, what: str, number: int | None = None
) -> tuple[list[Path], list[str]]:
    said: list[str] = []
    with open_run(path) as run:
        return export_table(run, target, what, number, said.append), said


def test_necks_are_read_back_with_the_time_before_them(grown: Path) -> None:
    with open_run(grown) as run:
        rows = neck_rows(run, run.every_series())
        assert run.hold_totals_s["series_003"] == pytest.approx(12.0, abs=1e-6)
    assert [(name, neck) for name, _, neck in rows] == [
        ("series_001", FIRST), ("series_002", SECOND), ("series_002", OTHER)
    ]  # fmt: skip
    assert [total for _, total, _ in rows] == pytest.approx([0.0, 5.0, 5.0], abs=1e-6)
    assert type(rows[0][2].particle_a) is int


def test_all_series_in_one_table(grown: Path, tmp_path: Path) -> None:
    written, said = export(grown, tmp_path / "necks.csv", "necks")
    assert written == [tmp_path / "necks.csv"]
    assert not said
    rows = read_csv(written[0])
    assert list(rows[0]) == ["series", "hold_total_s", *(field.name for field in fields(Neck))]
    assert [row["series"] for row in rows] == ["series_001", "series_002", "series_002"]
    assert [float(row["hold_total_s"]) for row in rows] == pytest.approx([0, 5, 5], abs=1e-4)
    assert rows[2]["particle_b"] == "7"
    assert float(rows[1]["neck_radius_nm"]) == 30.0
    written, _ = export(grown, tmp_path / "second.csv", "necks", 2)
    assert [row["series"] for row in read_csv(written[0])] == ["series_002", "series_002"]


def test_shifts_in_pixels_and_nm_with_gaps(grown: Path, tmp_path: Path) -> None:
    export(grown, tmp_path / "shifts.csv", "shifts")
    rows = read_csv(tmp_path / "shifts.csv")
    assert [row["series"] for row in rows] == ["series_001"] * 5 + ["series_003"] * 5
    assert [float(row["nominal_tilt_deg"]) for row in rows[:5]] == [-40, -20, 0, 20, 40]
    assert float(rows[1]["shift_y_px"]) == 1.25
    assert float(rows[1]["shift_x_px"]) == -1.0
    assert float(rows[1]["shift_x_nm"]) == pytest.approx(-1.04)
    assert rows[7]["view"] == "2"
    assert {rows[7][name] for name in rows[7] if name.startswith("shift")} == {""}


@pytest.mark.parametrize("what", ["growth", "model"])
def test_plots_from_what_is_in_the_file(grown: Path, tmp_path: Path, what: str) -> None:
    target = tmp_path / f"{what}.png"
    export(grown, target, what)
    assert target.read_bytes().startswith(PNG)
    with pytest.raises(BadInput, match="not overwritten"):
        export(grown, target, what)


def test_the_newest_measurement_counts_and_a_mixture_is_told(grown: Path, tmp_path: Path) -> None:
    with h5py.File(grown, "r+") as file:
        series = file["series_002"]
        series.copy("process_004", "process_008")
        series["process_008/necks/data"][...] = table_of(FIRST)
    _, said = export(grown, tmp_path / "necks.csv", "necks")
    assert [row["neck_radius_nm"] for row in read_csv(tmp_path / "necks.csv")] == ["20", "20"]
    assert len(said) == 1
    assert "series_001 process_004, series_002 process_008" in said[0]


def test_without_a_time_the_column_is_empty_and_there_is_no_plot(
    grown: Path, tmp_path: Path
) -> None:
    with h5py.File(grown, "r+") as file:
        for name in ("series_001", "series_002", "series_003"):
            del file[f"{name}/frames/holds_before"]  # as in an imported file
    with open_run(grown) as run:
        assert all(math.isnan(row[1]) for row in neck_rows(run, run.every_series()))
        said: list[str] = []
        written = write_beside(run, ["series_001", "series_002"], tmp_path, said.append)
    assert written == [tmp_path / "run_necks.csv"]
    assert [row["hold_total_s"] for row in read_csv(written[0])] == ["", "", ""]
    assert len(said) == 1
    assert "series_001, series_002 is not known" in said[0]
    with pytest.raises(BadInput, match=r"no neck at a known time .*--what necks"):
        export(grown, tmp_path / "growth.png", "growth")
    assert not (tmp_path / "growth.png").exists()


def test_beside_the_run_nothing_is_overwritten(grown: Path, tmp_path: Path) -> None:
    names = ["series_001", "series_002"]
    for begin in ("run", "run_2"):
        with open_run(grown) as run:
            written = write_beside(run, names, tmp_path, pytest.fail)
        assert [path.name for path in written] == [
            f"{begin}_necks.csv", f"{begin}_growth.png", f"{begin}_model.png"
        ]  # fmt: skip
        for path in written[1:]:
            assert path.read_bytes().startswith(PNG)
    # One name that is taken keeps all three together.
    (tmp_path / "run_3_model.png").write_bytes(b"precious")
    with open_run(grown) as run:
        written = write_beside(run, names, tmp_path, pytest.fail)
    assert written[0].name == "run_4_necks.csv"
    assert (tmp_path / "run_3_model.png").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("what", "target", "number", "words"),
    [
        ("necks", "x.mrc", None, r"--to: .*'necks' is a table; give a \.csv file"),
        ("growth", "x.csv", None, r"'growth' is a plot; give a \.png file"),
        ("necks", "x.csv", 3, "series_003 of .* holds no 'necks'; it has frames, shifts"),
        (
            "shifts",
            "x.csv",
            2,
            "holds no 'shifts'; it has frames, necks .*'align'",
        ),
        ("necks", "x.csv", 9, "has no series_009; it has series_001"),
        ("necks", "no/x.csv", None, "the folder .* does not exist"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    grown: Path, tmp_path: Path, what: str, target: str, number: int | None, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        export(grown, tmp_path / target, what, number)
    assert [p.name for p in tmp_path.iterdir()] == ["run.nxs"]


def test_a_run_without_results_says_what_makes_them(make_run: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no 'necks'; it has frames \(`pyrotome process`"):
        export(make_run(), tmp_path / "x.csv", "necks")


def test_columns_of_another_version_are_refused(grown: Path, tmp_path: Path) -> None:
    with h5py.File(grown, "r+") as file:
        necks = file["series_001/process_004/necks"]
        del necks["data"]
        necks["data"] = np.ones((3, 4))
    with pytest.raises(BadInput, match=r"shape \(3, 4\); the columns particle_a"):
        export(grown, tmp_path / "x.csv", "necks")


def test_images_do_not_go_into_a_table(grown: Path, tmp_path: Path) -> None:
    with (
        open_run(grown) as run,
        pytest.raises(
            BadInput,
            match=r"'volume' cannot be written as .*necks, shifts, tuning or tracking; \.png",
        ),
    ):
        export_images(run, tmp_path / "x.csv", "volume", 1)


def test_the_tuning_is_a_table_with_the_frame_as_it_is_last(tmp_path: Path) -> None:
    trials = (Trial("white", "auto", 30.0), Trial("g2", 12.5, 28.0))
    write_tuning(
        tmp_path / "t.csv", {"reference_001": NoiseChoice("white", "auto", 30.0, 20.0, trials)}
    )
    rows = read_csv(tmp_path / "t.csv")
    assert [(r["noise"], r["variance"], r["psnr_db"]) for r in rows] == [
        ("white", "auto", "30.0000"), ("g2", "12.5", "28.0000"), ("", "", "20.0000"),
    ]  # fmt: skip


def test_without_a_tuning_it_is_said_what_makes_one(grown: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no 'tuning': its pipeline has no `denoise"):
        export(grown, tmp_path / "x.png", "tuning")
    with pytest.raises(BadInput, match=r"a table or a plot; give a \.csv or \.png"):
        export(grown, tmp_path / "x.tif", "tuning")
