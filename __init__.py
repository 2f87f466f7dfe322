"""pyrotome: live in-situ heating experiments in electron microscopes.

Read a run file in Python:

>>> import pyrotome
>>> run = pyrotome.open("run.nxs")  # doctest: +SKIP
>>> run.series[1].temperature_c, run.telemetry["heater"]["temperature_c"].values  # doctest: +SKIP

A public name is imported when it is used for the first time, so that ``import pyrotome`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .protocols.core.errors import BadInput
    from .protocols.runfile.reader import Run
    from .protocols.runfile.reader import open_run as open

__version__ = "0.2.0"
__all__ = ["BadInput", "Run", "__version__", "open"]

# Public name -> module, and its name there.
_HOMES = {
    "BadInput": ("protocols.core.errors", "BadInput"),
    "Run": ("protocols.runfile.reader", "Run"),
    "open": ("protocols.runfile.reader", "open_run"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _HOMES[name]
    found = getattr(import_module(f".{module}", __name__), there)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
