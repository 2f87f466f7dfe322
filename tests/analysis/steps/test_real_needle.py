"""The measured needle, whose vacuum stands at -31,880: every method gives the same body."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from analysed_series import analysed
from numpy.typing import NDArray

BINNING = 4
ITERATIONS = {"tv": 40, "sirt": 30, "wbp": 1}


@pytest.fixture
def needle(measured_data: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Every second view, binned."""
    folder = measured_data / "needle_haadf"
    # The file is older than the standard's map identifier.
    with (
        pytest.warns(RuntimeWarning, match="Map ID|machine stamp"),
        mrcfile.open(folder / "HAADF.mrc", permissive=True) as stack,
    ):
        views = np.array(stack.data[::2], np.float32)
    count, rows, columns = views.shape
    rows, columns = rows - rows % BINNING, columns - columns % BINNING
    blocks = views[:, :rows, :columns].reshape(
        count, rows // BINNING, BINNING, columns // BINNING, BINNING
    )
    return blocks.mean(axis=(2, 4)), np.loadtxt(folder / "HAADF.rawtlt")[::2]


def test_every_method_gives_the_same_needle(
    needle: tuple[NDArray[np.float32], NDArray[np.float64]],
) -> None:
    volumes: dict[str, Any] = {}
    for method, iterations in ITERATIONS.items():
        reconstruct = {"method": method, "iterations": iterations, "binning": 1}
        found, _, figures = analysed(*needle, [{"align": {}}, {"reconstruct": reconstruct}])
        assert figures["pedestal_counts"] == pytest.approx(-31_880, abs=100)
        volumes[method] = found["volume"].ravel()
    assert np.corrcoef(volumes["sirt"], volumes["tv"])[0, 1] >= 0.97
    assert np.corrcoef(volumes["wbp"], volumes["tv"])[0, 1] >= 0.94
