"""The coarse model of the atoms that the step ``trace`` publishes after each tilt."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from ...protocols.steps import Notice, Online, Output, Parameters, Progress, View
from ...protocols.steps.tables import LIVE_ATOM_COLUMNS
from ..live.coarse_atoms import CoarseAtoms, CoarseModel
from ..views.counts import count_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NM = 0.1  # of an angstrom


class LiveTrace:
    """Model after model of a series that is being taken.

    Parameters
    ----------
    coarse : CoarseAtoms
        The model.
    online : Online
        Tells whether views wait; then no model is made, so that the analysis does not fall behind.
    name : str
        Of the series.
    counts_per_electron : float
        The counts are divided by it.
    """

    def __init__(
        self, coarse: CoarseAtoms, online: Online, name: str, counts_per_electron: float
    ) -> None:
        self._coarse, self._online, self._name = coarse, online, name
        self._scale = counts_per_electron
        self._without_model = 0
        self._told = False

    def after_view(
        self, view: View
    ) -> Generator[Output, None, tuple[NDArray[np.float64], Parameters] | None]:
        """Take in a view; the rows of the model and its figures, or None if there is no model."""
        if view.frames is None:
            return None
        data = count_series([view.frames], counts_per_electron=self._scale)
        known = None if data.known is None else data.known[0]
        self._coarse.add_view(view.index, data.counts[0], view.tilt_deg, known, view.shift_px)
        if self._online.waiting():
            self._without_model += 1
            if not self._told:
                self._told = True
                yield Notice(
                    "info",
                    f"{self._name}: views come faster than atoms can be modelled; models between "
                    "the tilts are left out, the one at the end is not",
                )
            return None
        work = self._coarse.model()
        try:
            while True:
                yield Progress(f"modelling atoms at {view.tilt_deg:.1f} deg", next(work))
        except StopIteration as end:
            made: CoarseModel | None = end.value
        except ValueError:
            return None  # a few views need not show atoms; the whole series tells
        if made is None:
            return None
        return self._rows(made), self._figures(made)

    def _rows(self, made: CoarseModel) -> NDArray[np.float64]:
        rows = np.column_stack(
            [made.positions_a * _NM, made.error_a * _NM, made.expected_error_a * _NM, made.heights]
        )
        assert rows.shape[1] == len(LIVE_ATOM_COLUMNS)
        return rows

    def _figures(self, made: CoarseModel) -> Parameters:
        more: Parameters = {
            "atoms": len(made.heights),
            "views": made.views,
            "views_planned": made.planned,
            "views_without_model": self._without_model,
            "settled": int(made.settled),
            "position_error_median_nm": float(np.median(made.error_a)) * _NM,
            "expected_error_median_nm": float(np.median(made.expected_error_a)) * _NM,
            "model_s": round(made.elapsed_s, 3),
        }
        if made.next_deg is not None:
            more["next_tilt_deg"] = made.next_deg
        if made.skipped:
            more["left_out"] = "; ".join(made.skipped)
        return more
