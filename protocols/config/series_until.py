"""``until`` of a tilt series: it ends as soon as the analysis knows the specimen well enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ..core.documents import Strict
from ..core.errors import Misplaced
from ..core.units import LengthNm
from .pipeline import AnalysisStep

# What a step publishes between the tilts bears the name of its result at the end, and this.
LIVE = "_live"
# Quantities of a series are lengths so far.
_UNIT = "_nm"


class SeriesUntil(Strict):
    """End a tilt series early, by what the analysis publishes after each tilt.

    After each tilt the newest median of a quantity, by the views so far, is compared with a level.
    The series never waits for it, and is never longer than it is written.

    Attributes
    ----------
    quantity : str
        Table and column, without its unit, such as ``atoms.position_error``.
    below_nm : float
        The series ends when the quantity is less.
    next_tilt : str
        ``order``: the tilts come as they are written. ``information``: once the model has settled,
        the next one is that of those left whose view would tell most about the atoms.
    """

    quantity: Annotated[
        str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}\.[a-z][a-z0-9_]{0,63}$", max_length=130)
    ] = "atoms.position_error"
    below_nm: Annotated[LengthNm, Field(gt=0)] = Field(alias="below")
    next_tilt: Literal["order", "information"] = "order"

    @property
    def live_result(self) -> str:
        """Name of the result that tells the quantity between the tilts."""
        return self.quantity.partition(".")[0] + LIVE

    @property
    def figure(self) -> str:
        """Name of the figure of that result which is compared."""
        return f"{self.quantity.partition('.')[2]}_median{_UNIT}"

    @property
    def chooses_tilts(self) -> bool:
        """Whether tilts come in the order in which they tell most."""
        return self.next_tilt == "information"

    @property
    def text(self) -> str:
        """The criterion, for people."""
        return f"the median of {self.quantity} is below {self.below_nm * 1000:g} pm"

    def check(self, steps: Sequence[AnalysisStep]) -> None:
        """Refuse a quantity that no step publishes between the tilts.

        Parameters
        ----------
        steps : sequence of AnalysisStep
            The pipeline of the recipe.

        Raises
        ------
        ValueError
            With the quantities that there are.
        """
        outputs = [spec for step in steps for spec in step.outputs]
        live = {spec.name for spec in outputs}
        known = [
            f"{spec.name}.{column.removesuffix(_UNIT)}"
            for spec in outputs
            if spec.name + LIVE in live
            for column in spec.columns
            if column.endswith(f"_error{_UNIT}")
        ]
        if self.quantity not in known:
            there = f"there is {', '.join(known)}" if known else "there is none"
            raise ValueError(
                f"'{self.quantity}' is not told between the tilts by the analysis steps of this "
                f"recipe; {there} (the step 'trace' with the method 'likelihood' tells "
                "atoms.position_error)"
            )


def check_series(steps: Sequence[Any], analysis: Sequence[AnalysisStep]) -> None:
    """Check `until` of the tilt series of a recipe, those in cycles too.

    Parameters
    ----------
    steps : sequence of Step
        Of the recipe.
    analysis : sequence of AnalysisStep
        Its pipeline.

    Raises
    ------
    Misplaced
        Where one compares what no step publishes between the tilts.
    """
    for number, step in enumerate(steps):
        then = () if step.cycle is None else step.cycle.then
        written: list[tuple[tuple[str | int, ...], Any]] = [(("tilt_series",), step.tilt_series)]
        for position, one in enumerate(then):
            written.append((("cycle", "then", position, "tilt_series"), one.tilt_series))
        for path, series in written:
            if series is None or series.until is None:
                continue
            try:
                series.until.check(analysis)
            except ValueError as error:
                raise Misplaced(str(error), "steps", number, *path, "until") from None
