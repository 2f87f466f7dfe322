"""What a recipe says of steering: when a cycle or a series ends, and how holds are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from ..core.documents import Strict
from ..core.errors import Misplaced
from ..core.units import (
    DurationS,
    EnergyJPerMol,
    Fraction,
    LengthNm,
    TemperatureC,
    parse_quantity,
)
from .pipeline import AnalysisStep, ResultPlan

Statistic = Literal["median", "mean", "max", "min", "std"]
NECK_RATIO = "necks.neck_to_particle"


def _level(value: object) -> float:
    """A number in the unit of the quantity; a ratio may be written in percent."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return parse_quantity(value, "dimensionless", "5 %")
    raise ValueError(
        f"expected a number in the unit of the quantity such as 0.4, or a percentage such as "
        f"'40 %', got {value!r}"
    )


Level = Annotated[float, BeforeValidator(_level), Field(allow_inf_nan=False)]
QuantityName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][\w-]{0,63}(\.[A-Za-z_]\w{0,63})?$", max_length=130)
]
MaxHolds = Annotated[int, Field(ge=1, le=10_000, strict=True)]


@dataclass(frozen=True)
class Quantity:
    """A quantity that steers.

    Parameters
    ----------
    result : str
        Name of the result that holds it.
    column : str or None
        Column of a table; None for a scalar.
    statistic : str
        Of the column. A scalar is its own median.
    """

    result: str
    column: str | None
    statistic: Statistic = "median"

    @classmethod
    def of(cls, name: str, statistic: Statistic | None) -> Quantity:
        """Quantity of a name as recipes have it: ``result`` or ``result.column``."""
        result, _, column = name.partition(".")
        return cls(result, column or None, statistic or "median")

    @property
    def name(self) -> str:
        """As recipes have it."""
        return f"{self.result}.{self.column}" if self.column else self.result

    @property
    def text(self) -> str:
        """For people: ``the median of necks.neck_to_particle``."""
        if self.column is None:
            return self.name
        word = {"max": "maximum", "min": "minimum", "std": "standard deviation"}
        return f"the {word.get(self.statistic, self.statistic)} of {self.name}"


def quantities(results: Iterable[ResultPlan]) -> list[str]:
    """Names of the quantities that some results give: columns of tables, and scalars."""
    found: list[str] = []
    for result in results:
        if result.per_frame or not result.dtype.startswith(("float", "int", "uint")):
            continue
        if result.columns:
            found += [f"{result.name}.{column}" for column in result.columns]
        elif result.shape in ((), (1,)):
            found.append(result.name)
    return found


def check_quantity(name: str, statistic: Statistic | None, results: Sequence[ResultPlan]) -> None:
    """Refuse a quantity that no step of the recipe gives.

    Parameters
    ----------
    name : str
        As the recipe has it.
    statistic : str or None
        If it is named.
    results : sequence of ResultPlan
        What the steps of the recipe leave for a tilt series.

    Raises
    ------
    ValueError
        With the quantities that there are.
    """
    known = quantities(results)
    if name not in known:
        there = f"they give {', '.join(known)}" if known else "they give no table and no scalar"
        raise ValueError(f"'{name}' is not given by the analysis steps of this recipe; {there}")
    if "." not in name and statistic is not None:
        raise ValueError(f"'{name}' is a single number: it has no {statistic}; leave it out")


class Until(Strict):
    """End a cycle by what the analysis has just measured, or after a number of holds.

    After each series a quantity is compared with that of the series before (`growth_below`) or
    with a level (`above`, `below`). If it is not known within `timeout_s` of wall time, the cycle
    goes on or stops as `otherwise` says. `neck_growth_below` is short for the growth of the median
    of ``necks.neck_to_particle``. `max_holds` may be left out where the holds are adaptive.
    """

    quantity_name: QuantityName | None = Field(default=None, alias="quantity")
    statistic: Statistic | None = None
    growth_below: Annotated[Fraction, Field(gt=0, lt=1)] | None = None
    above: Level | None = None
    below: Level | None = None
    neck_growth_below: Annotated[Fraction, Field(gt=0, lt=1)] | None = None
    max_holds: MaxHolds | None = None
    timeout_s: DurationS = Field(default=120.0, alias="timeout", gt=0)
    otherwise: Literal["continue", "stop"] = "continue"

    @model_validator(mode="after")
    def _one_criterion(self) -> Until:
        names = ("growth_below", "above", "below", "neck_growth_below")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"'until' takes exactly one of {', '.join(names)}; "
                f"this one has {', '.join(given) or 'none'}"
            )
        if self.neck_growth_below is not None:
            if self.quantity_name is not None or self.statistic is not None:
                raise ValueError(
                    f"'neck_growth_below' is the growth of the median of {NECK_RATIO}; with "
                    "'quantity' or 'statistic' write 'growth_below'"
                )
        elif self.quantity_name is None:
            raise ValueError(f"'{given[0]}' needs a 'quantity', such as {NECK_RATIO}")
        return self

    @property
    def quantity(self) -> Quantity:
        """What is compared."""
        return Quantity.of(self.quantity_name or NECK_RATIO, self.statistic)

    @property
    def growth_bound(self) -> float | None:
        """Growth from one series to the next below which the cycle ends, if that ends it."""
        return self.growth_below if self.growth_below is not None else self.neck_growth_below

    @property
    def criterion(self) -> str:
        """What ends the cycle, for people."""
        if (growth := self.growth_bound) is not None:
            return f"{self.quantity.text} grew by less than {growth:.2%}"
        word, level = ("above", self.above) if self.above is not None else ("below", self.below)
        return f"{self.quantity.text} is {word} {level:g}"


class Adaptive(Strict):
    """Holds that are chosen one by one, so that a quantity advances by equal steps.

    After each series a kinetic model is fitted to what was measured so far, and the next hold is
    chosen by it. The first one lasts `first_s`.

    Attributes
    ----------
    quantity_name, statistic
        What advances: ``result.column`` and its statistic (the median without one), or a scalar.
    step : float
        Advance that each hold should bring, in the unit of the quantity: 5 % of a ratio means that
        it rises by 0.05, from 0.30 to 0.35.
    first_s, min_s, max_s : float
        Length of the first hold, and bounds of the others.
    max_holds : int
        Holds at most.
    temperature_c : tuple of float or None
        Range in which the processing temperature may move; without it, it does not.
    timeout_s : float
        Wall time that is waited for a measurement.
    otherwise : str
        The hold that is taken where the model cannot choose: as the last one, or as the first.
    activation_energy_j_per_mol, activation_energy_sd_j_per_mol : float
        What is known of the activation energy, before the first measurement.
    """

    quantity_name: QuantityName = Field(default=NECK_RATIO, alias="quantity")
    statistic: Statistic | None = None
    step: Annotated[Level, Field(gt=0)] = 0.05
    first_s: DurationS = Field(default=1.0, alias="first", gt=0)
    min_s: DurationS = Field(default=0.2, alias="min", gt=0)
    max_s: DurationS = Field(default=120.0, alias="max", gt=0)
    max_holds: MaxHolds = 30
    temperature_c: tuple[TemperatureC, TemperatureC] | None = Field(
        default=None, alias="temperature"
    )
    timeout_s: DurationS = Field(default=120.0, alias="timeout", gt=0)
    otherwise: Literal["last", "first"] = "last"
    activation_energy_j_per_mol: EnergyJPerMol = Field(
        default=150e3, alias="activation_energy", gt=0, le=1e6
    )
    activation_energy_sd_j_per_mol: EnergyJPerMol = Field(
        default=60e3, alias="activation_energy_sd", ge=0, le=1e6
    )

    @model_validator(mode="after")
    def _bounds_make_sense(self) -> Adaptive:
        if not self.min_s <= self.first_s <= self.max_s or self.min_s == self.max_s:
            raise ValueError(
                f"min ({self.min_s:g} s), first ({self.first_s:g} s) and max ({self.max_s:g} s) "
                "must ascend"
            )
        if self.temperature_c is not None and self.temperature_c[0] >= self.temperature_c[1]:
            low, high = self.temperature_c
            raise ValueError(f"temperature: {low:g} degC is not below {high:g} degC")
        return self

    @property
    def quantity(self) -> Quantity:
        """What advances."""
        return Quantity.of(self.quantity_name, self.statistic)

    @property
    def text(self) -> str:
        """The bounds of a hold, for people."""
        return f"adaptive, {self.min_s:g} to {self.max_s:g} s"


class AdaptiveHolds(Strict):
    """``holds`` of a cycle: the mapping ``{adaptive: {...}}``, or the word ``adaptive``."""

    adaptive: Adaptive = Adaptive()


PositiveDuration = Annotated[DurationS, Field(gt=0)]


_HOLD_LIST: TypeAdapter[list[float]] = TypeAdapter(
    Annotated[list[PositiveDuration], Field(min_length=1, max_length=10_000)]
)


def holds_of(value: Any) -> list[float] | AdaptiveHolds:
    """Holds of a cycle as they are written: a list of durations, or adaptive ones."""
    if value == "adaptive":
        return AdaptiveHolds()
    if isinstance(value, dict):
        return AdaptiveHolds.model_validate(value)
    if isinstance(value, AdaptiveHolds):
        return value
    if isinstance(value, str):
        raise ValueError(
            f"holds are a list such as [5 s, 10 s], or the word 'adaptive', not {value!r}"
        )
    return _HOLD_LIST.validate_python(value)


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
