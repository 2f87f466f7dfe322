"""A series that its detector has spoiled gives what the clean series gives; a clean one stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysed_series import analysed
from numpy.typing import NDArray

CASES = Path(__file__).resolve().parents[3].parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason="the cases of ../shared/cases are not here"
)
Counts = NDArray[Any]
MARK = 65535.0
METHODS = ("sirt", "tv", "wbp")
SHIFTS_ALIKE_PX, ALIKE = 0.1, 0.97


def series(name: str = "clean_with_drift") -> tuple[Counts, NDArray[np.float64]]:
    with np.load(CASES / f"{name}.npz") as arrays:
        return arrays["data"].astype(np.float32), arrays["angles"]


def written(method: str, correct: object = None) -> list[dict[str, Any]]:
    first = [] if correct is None else [{"correct": correct}]
    iterations = {"sirt": 10, "tv": 30, "wbp": 1}[method]
    volume = {"method": method, "iterations": iterations, "binning": 1}
    return [
        *first,
        {"align": {"method": "phase-correlation"}},
        {"reconstruct": volume},
        {"segment": {}},
    ]


@cache
def clean(method: str) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    return analysed(*series(), written(method))


def hits(times: float, each: int = 1, size: int = 1) -> Callable[[Counts], Counts]:
    """Hits at random places of every view, so many times as bright as the brightest pixel."""

    def spoil(counts: Counts) -> Counts:
        random, highest = np.random.default_rng(int(times)), counts.max()
        for image in counts:
            for _ in range(each):
                row, column = random.integers(2, 44), random.integers(2, 60)
                image[row : row + size, column : column + size] = times * highest
        return counts

    return spoil


def stuck(*pixels: tuple[int, int, float, float]) -> Callable[[Counts], Counts]:
    """Pixels (row, column) that begin at a value and drift by so much from view to view."""

    def spoil(counts: Counts) -> Counts:
        for row, column, value, drift in pixels:
            counts[:, row, column] = value + drift * np.arange(len(counts))
        return counts

    return spoil


def dead_row(counts: Counts) -> Counts:
    counts[:, 20] = 0
    return counts


def cross(value: float, width: int = 4) -> Callable[[Counts], Counts]:
    """A gap between the chips of a quad, through the middle of the frame."""

    def spoil(counts: Counts) -> Counts:
        row, column = (24 - width // 2, 32 - width // 2)
        counts[:, row : row + width] = value
        counts[:, :, column : column + width] = value
        return counts

    return spoil


def pedestal(value: float) -> Callable[[Counts], Counts]:
    return lambda counts: counts + np.float32(value)


def marks(value: float) -> Callable[[Counts], Counts]:
    """Pixels that the detector marks, some in each view and some in all."""

    def spoil(counts: Counts) -> Counts:
        random = np.random.default_rng(7)
        counts[random.random(counts.shape) < 0.003] = value
        counts[:, 11, 17:19] = value
        return counts

    return spoil


SPOILT: dict[str, tuple[Callable[[Counts], Counts], str]] = {
    "hits of 10x": (hits(10), "hits in"),
    "hits of 20x": (hits(20), "hits in"),
    "hits of 40x, three a view": (hits(40, each=3), "hits in"),
    "hits of 80x, two pixels wide": (hits(80, size=2), "hits in"),
    "thermal hits of half the maximum": (hits(0.5, each=2), "hits in"),
    "pedestal of -20000": (pedestal(-20000), ""),
    "pedestal of +20000": (pedestal(20000), ""),
    "pedestal of -31880": (pedestal(-31880), ""),
    "stuck high": (stuck((30, 12, 60000, 0)), "(row 30, column 12)"),
    "stuck low": (stuck((24, 32, 0, 0)), "(row 24, column 32)"),
    "drifting": (stuck((9, 40, 500, 200)), "(row 9, column 40)"),
    "several stuck": (
        stuck((5, 5, 4000, 0), (30, 12, 65535, 0), (31, 12, 65535, 0), (40, 50, 900, -20)),
        "(row 5, column 5)",
    ),
    "dead row": (dead_row, "row 20"),
    # Of 48 rows: ten times the share that the gaps of a quad with 512 rows take.
    "gap of one": (cross(0, 1), "row 24 and column 32"),
    "gap of two": (cross(0, 2), "rows 23-24 and columns 31-32"),
    "marked by the highest number": (marks(MARK), "the detector's mark"),
    "NaN": (marks(np.nan), "NaN or"),
}


def compared(kind: str, method: str) -> tuple[float, float, int, list[str]]:
    """Correlation with the clean volume, largest difference of a shift, particles, warnings."""
    spoil, _ = SPOILT[kind]
    counts, angles = series()
    found, warnings, _ = analysed(spoil(counts), angles, written(method), MARK)
    right, _, _ = clean(method)
    alike = float(np.corrcoef(found["volume"].ravel(), right["volume"].ravel())[0, 1])
    apart = float(np.abs(found["shifts"] - right["shifts"]).max())
    return alike, apart, len(np.unique(found["labels"])) - 1, warnings


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_series_gives_what_the_clean_one_gives(kind: str, method: str) -> None:
    alike, apart_px, particles, warnings = compared(kind, method)
    assert alike >= ALIKE
    assert apart_px <= SHIFTS_ALIKE_PX
    assert particles == 5
    said = SPOILT[kind][1]
    assert any(said in text for text in warnings) if said else warnings == [], warnings


@pytest.mark.parametrize("value", [0, MARK, np.nan])
@pytest.mark.parametrize("method", METHODS)
def test_a_gap_between_chips_hardly_changes_the_volume(method: str, value: float) -> None:
    """The cross covers 14 % of these small frames, four rows of it at the same height in all."""
    counts, angles = series()
    found, _, _ = analysed(cross(value)(counts), angles, written(method), MARK)
    right, _, _ = clean(method)
    assert np.corrcoef(found["volume"].ravel(), right["volume"].ravel())[0, 1] >= ALIKE


@pytest.mark.parametrize("method", METHODS)
def test_nothing_changes_in_a_clean_series(method: str) -> None:
    on, warnings, figures = clean(method)
    off, _, _ = analysed(*series(), written(method, correct=False))
    assert warnings == []
    assert not on["mask"].any()
    assert not on["outliers"].any()
    assert figures["pedestal_counts"] == 0
    assert np.corrcoef(on["volume"].ravel(), off["volume"].ravel())[0, 1] >= 1 - 1e-3
    assert np.array_equal(on["shifts"], off["shifts"])


def test_the_mask_says_why_a_pixel_is_left_out() -> None:
    counts, angles = series()
    counts = cross(0)(stuck((5, 5, 4000, 0))(counts))
    counts[:, 8, 8] = MARK
    found, _, figures = analysed(counts, angles, written("wbp"), MARK)
    mask = found["mask"]
    assert (mask[5, 5], mask[8, 8], mask[23, 3], mask[3, 31], mask[0, 0]) == (2, 1, 4, 4, 0)
    assert figures["pixels_hot"] == 1
    assert figures["pixels_marked"] == 1
    assert figures["pixels_in_lines"] == np.count_nonzero(mask == 4)


def test_what_is_turned_off_is_left_alone() -> None:
    counts, angles = series()
    steps = written("wbp", correct={"pedestal": "off", "bad_pixels": False, "hits": False})
    spoilt = hits(10)(counts.copy())
    found, warnings, figures = analysed(spoilt, angles, steps)
    assert not any("replaced" in text or "left out" in text for text in warnings)
    assert figures["hits_replaced"] == 0
    assert not found["mask"].any()
