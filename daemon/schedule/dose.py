"""The dose ledger: fluence is reserved before an exposure and charged after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...protocols.core.units import fluence_unit

# Two sums of the same frames may differ in the last bits, which does not pass a limit.
ROUNDING = 1 + 1e-9
_ROUNDING_PART = 1e-6


class DoseExceeded(Exception):
    """An exposure would pass a limit of the dose; nothing was exposed."""


@dataclass
class Account:
    """Fluence of one stack of frames, in e/nm^2."""

    name: str
    limit: float | None
    reserved: float = 0.0
    charged: float = 0.0


class DoseLedger:
    """Fluence on the specimen against its budget, in e/nm^2.

    Parameters
    ----------
    limit : float or None
        Budget of the whole experiment.
    series_limit : float or None
        Budget of each tilt series.
    """

    def __init__(self, limit: float | None, series_limit: float | None) -> None:
        self.limit, self.series_limit = limit, series_limit
        self._accounts: dict[str, Account] = {}

    def restore(self, charged: Mapping[str, float]) -> None:
        """Set the fluence of each stack from before an interruption, in e/nm^2."""
        for name, dose in charged.items():
            self._accounts[name] = Account(name, None, charged=dose)

    @property
    def charged(self) -> float:
        """Fluence that the specimen has received, in e/nm^2."""
        return sum(account.charged for account in self._accounts.values())

    @property
    def committed(self) -> float:
        """Fluence received plus reserved, in e/nm^2."""
        return self.charged + sum(account.reserved for account in self._accounts.values())

    def of(self, name: str) -> float:
        """Fluence of one stack of frames, in e/nm^2."""
        return self._accounts[name].charged if name in self._accounts else 0.0

    def reserve(self, name: str, dose: float, is_series: bool) -> None:
        """Reserve the fluence of a stack of frames.

        Parameters
        ----------
        name : str
            Name of the stack.
        dose : float
            Fluence in e/nm^2.
        is_series : bool
            Whether the limit of a tilt series applies.

        Raises
        ------
        DoseExceeded
            If the stack's or the experiment's limit would be passed; nothing is reserved.
        """
        if dose < 0:
            raise ValueError(f"a dose cannot be negative, got {dose}")
        account = self._accounts.get(name) or Account(name, None)
        account.limit = self.series_limit if is_series else None
        wanted = account.charged + account.reserved + dose
        if account.limit is not None and wanted > account.limit * ROUNDING:
            unit = fluence_unit(account.limit)
            raise DoseExceeded(
                f"{name} needs {unit.of(wanted):.4g} {unit.name}, its limit is "
                f"{unit.of(account.limit):.4g} {unit.name}"
            )
        total = self.committed + dose
        if self.limit is not None and total > self.limit * ROUNDING:
            unit = fluence_unit(self.limit)
            raise DoseExceeded(
                f"{name} would bring the specimen to {unit.of(total):.5g} {unit.name}, "
                f"the budget is {unit.of(self.limit):.5g} {unit.name}"
            )
        account.reserved += dose
        self._accounts[name] = account

    def top_up(self, name: str, dose: float) -> None:
        """Reserve what a stack of frames lacks of a fluence that it still needs.

        Parameters
        ----------
        name : str
            Name of a stack that has reserved before.
        dose : float
            Fluence of all that is left of it, in e/nm^2.

        Raises
        ------
        DoseExceeded
            If a limit would be passed; the reservation stays as it was.
        """
        account = self._accounts[name]
        missing = dose - account.reserved
        if missing > dose * _ROUNDING_PART:
            self.reserve(name, missing, account.limit is not None)

    def charge(self, name: str, dose: float) -> None:
        """Charge an exposure that has happened to what was reserved.

        Parameters
        ----------
        name : str
            Name of the stack.
        dose : float
            Fluence in e/nm^2. More than was reserved is charged too, because the specimen has
            received it.

        Raises
        ------
        DoseExceeded
            If a limit is passed by it, or nothing at all was reserved.
        """
        account = self._accounts.get(name)
        if account is None:
            self._accounts[name] = Account(name, None, charged=dose)
            raise DoseExceeded(f"{name} received {dose:.3g} e/nm^2 that was not reserved")
        account.charged += dose
        account.reserved = max(0.0, account.reserved - dose)
        for limit, charged, whose in (
            (account.limit, account.charged, f"{name} has received"),
            (self.limit, self.charged, "the specimen has received"),
        ):
            if limit is not None and charged > limit * ROUNDING:
                unit = fluence_unit(limit)
                raise DoseExceeded(
                    f"{whose} {unit.of(charged):.5g} {unit.name}, more than its limit of "
                    f"{unit.of(limit):.5g} {unit.name}"
                )

    def release(self, name: str) -> None:
        """Release what a stack has reserved and not used."""
        if name in self._accounts:
            self._accounts[name].reserved = 0.0
