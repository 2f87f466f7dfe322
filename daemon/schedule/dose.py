"""The dose ledger: fluence is reserved before an exposure and charged after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Two sums of the same frames may differ in the last bits, which does not pass a limit.
ROUNDING = 1 + 1e-9


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
            raise DoseExceeded(
                f"{name} needs {wanted:.4g} e/nm^2, its limit is {account.limit:.4g} e/nm^2"
            )
        total = self.committed + dose
        if self.limit is not None and total > self.limit * ROUNDING:
            raise DoseExceeded(
                f"{name} would bring the specimen to {total:.5g} e/nm^2, "
                f"the budget is {self.limit:.5g} e/nm^2"
            )
        account.reserved += dose
        self._accounts[name] = account

    def charge(self, name: str, dose: float) -> None:
        """Charge an exposure that has happened to what was reserved.

        Parameters
        ----------
        name : str
            Name of the stack.
        dose : float
            Fluence in e/nm^2.

        Raises
        ------
        DoseExceeded
            If less was reserved than is charged. The exposure is charged nevertheless, because
            the specimen has received it.
        """
        account = self._accounts.setdefault(name, Account(name, None))
        missing = dose - account.reserved
        account.charged += dose
        account.reserved = max(0.0, account.reserved - dose)
        if missing > dose * 1e-6:
            raise DoseExceeded(f"{name} received {missing:.3g} e/nm^2 that was not reserved")

    def release(self, name: str) -> None:
        """Release what a stack has reserved and not used."""
        if name in self._accounts:
            self._accounts[name].reserved = 0.0
