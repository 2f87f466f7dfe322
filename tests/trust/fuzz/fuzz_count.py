"""What came of many inputs to one target."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Count:
    """Inputs, refusals and findings."""

    name: str
    inputs: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    slowest: bytes = b""
    findings: list[str] = field(default_factory=list[str])
    more: Counter[str] = field(default_factory=Counter[str])

    def line(self) -> str:
        said = ", ".join(f"{n} {what}" for what, n in self.more.items())
        return (
            f"{self.name:22} {self.inputs:9d} inputs {self.refused:9d} refused   "
            f"slowest {self.slowest_s * 1e3:7.1f} ms   {len(self.findings)} findings"
            f"{'   ' + said if said else ''}"
        )
