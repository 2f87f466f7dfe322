"""Switches of a wire's faults; every server checks them before it answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping

from ...protocols.config.faults import FAULTS, PHYSICAL, Fault, FaultName
from ...protocols.core.errors import BadInput

_NOISE_BYTES = 37


class WireFaults:
    """The faults of one wire; all off at the start.

    A server calls `delay` before an answer goes out, `strikes` for what it must do itself, and
    `spoil` on the bytes of a stream. All of them cost nothing while no fault is on.

    Parameters
    ----------
    possible : collection of str
        Which of the faults make sense on this wire.
    seed : int
        Of the noise.
    changed : callable, optional
        Called with those that are on, whenever that may have changed: for faults behind the wire.
    """

    def __init__(
        self,
        possible: Collection[FaultName],
        seed: int = 1,
        changed: Callable[[Mapping[FaultName, Fault]], None] | None = None,
    ) -> None:
        self.possible = frozenset(possible)
        self._on_change = changed
        self._on: dict[FaultName, Fault] = {}
        self._left: dict[FaultName, int] = {}
        self._changed = asyncio.Event()
        self._random = random.Random(seed)
        self.struck: dict[FaultName, int] = {}

    def switch(self, fault: Fault) -> None:
        """Turn a fault on; ``none`` clears all.

        Raises
        ------
        BadInput
            If this wire cannot have it.
        """
        self.check(fault)
        if fault.name == "none":
            self.clear()
            return
        self._on[fault.name] = fault
        self._left.pop(fault.name, None)
        if fault.times is not None:
            self._left[fault.name] = fault.times
        self._wake()

    def check(self, fault: Fault) -> None:
        """Raise BadInput if this wire cannot have a fault."""
        if fault.name not in {*self.possible, "none"}:
            known = ", ".join(name for name in FAULTS if name in self.possible) or "none"
            raise BadInput(
                f"{fault.role}:{fault.name}", f"this wire cannot have it; it can have {known}"
            )
        role = PHYSICAL.get(fault.name)
        if role is not None and fault.role != role:
            raise BadInput(f"{fault.role}:{fault.name}", f"is a fault of the {role}")
        if role is not None and fault.times is not None:
            raise BadInput(f"{fault.role}:{fault.name}", "does not strike a number of times")

    def clear(self, name: FaultName | None = None) -> None:
        """Turn one fault off, or all."""
        if name is None:
            self._on.clear()
            self._left.clear()
        else:
            self._on.pop(name, None)
            self._left.pop(name, None)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        if self._on_change is not None:
            self._on_change(dict(self._on))

    def is_on(self, name: FaultName) -> bool:
        """Whether a fault is on, without using it up."""
        return name in self._on

    def strikes(self, name: FaultName) -> bool:
        """Whether a fault strikes now; one that was given a number of times is used up so."""
        if name not in self._on:
            return False
        self.struck[name] = self.struck.get(name, 0) + 1
        if name in self._left:
            self._left[name] -= 1
            if self._left[name] <= 0:
                self.clear(name)
        return True

    async def delay(self) -> None:
        """Wait as long as the wire hangs or is slow."""
        while "hang" in self._on:
            await self._changed.wait()
        fault = self._on.get("slow")
        if fault is not None and self.strikes("slow"):
            await asyncio.sleep(fault.late_s)

    def spoil(self, raw: bytes) -> bytes:
        """Bytes of an answer, with noise before them while the wire has garbage."""
        return self.noise() + raw if self.strikes("garbage") else raw

    def noise(self) -> bytes:
        """Some bytes that no protocol would send; printable ones and line ends among them."""
        return self._random.randbytes(_NOISE_BYTES - 8) + b"MPX,{\r\n:"
