"""Rows of the catalogue: faults of an instrument's wire during a run.

Each row runs the same small experiment in a daemon of its own, on a microscope that it shares with
the other rows, and lets the fault strike at its moment. At the end the microscope's own log says
whether beam and heater are safe.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest

AGAIN_S = 0.4


@dataclass(frozen=True)
class Row:
    """One fault and what must follow.

    Attributes
    ----------
    fault : str
        As on the command line.
    at : str
        When it strikes: after the second frame (``frames``), or when the hold begins (``hold``).
    status : str
        Of the run.
    code : int
        Exit code that the command line would give.
    lost : int
        Frames recorded as missing, at most; one at least if it is not 0.
    says : str
        Part of the one message, the reason of the end or a warning.
    clears : bool
        Whether the fault ends when the run is being made safe, so that this can be confirmed.
    confirmed : bool
        Whether beam and heater confirm that they are safe; else the daemon is panicked.
    """

    fault: str
    broken: str
    must: str
    within_s: float
    status: str = "complete"
    code: int = 0
    lost: int = 0
    says: str = ""
    at: str = "frames"
    clears: bool = False
    confirmed: bool = True


FRAMES = 6
STOPS = "run stopped, exit 3, heater cold, beam blanked"
ROWS = (
    # Detector
    Row("detector:garbagex1", "noise before a frame", "the frame is read all the same", 30),
    Row("detector:slow=50 ms", "the detector answers late", "nothing is lost", 40),
    Row(
        "detector:extra-frames", "the detector sends two frames for each trigger",
        "the second ones are dropped and told", 40, says="extra frames that were dropped",
    ),
    Row(
        "detector:short-framex1", "a frame without its end", "it is recorded as missing", 40,
        lost=1, says="frame 2 is lost",
    ),
    Row(
        "detector:wrong-lengthx1", "a frame with a wrong length", "it is recorded as missing", 30,
        lost=1, says="frame 2 is lost",
    ),
    Row(
        "detector:disconnectx1", "the detector hangs up", STOPS, 20,
        status="failed", code=3, says="broke",
    ),
    Row(
        "detector:error", "the detector refuses", STOPS, 20,
        status="failed", code=3, says="answered error 1",
    ),
    Row(
        "detector:hang", "the detector hangs", STOPS, 45,
        status="failed", code=3, says="no answer", clears=True,
    ),
    # Stage
    Row("stage:slow=50 ms", "the stage answers late", "nothing is lost", 40),
    Row(
        "stage:hang", "the stage hangs", STOPS, 45,
        status="failed", code=3, says="stage (temscript-stage)", clears=True,
    ),
    Row(
        "stage:disconnectx1", "the stage's server hangs up", STOPS, 20,
        status="failed", code=3, says="stage (temscript-stage)",
    ),
    Row(
        "stage:garbage", "the stage sends noise", STOPS, 20,
        status="failed", code=3, says="not temscript's JSON",
    ),
    Row(
        "stage:error", "the stage refuses", STOPS, 20,
        status="failed", code=3, says="answered 500",
    ),
    # Column
    Row(
        "beam:errorx1", "the column refuses once", STOPS, 20,
        status="failed", code=3, says="beam (temscript-beam)",
    ),
    Row(
        "beam:error", "the column refuses everything",
        "heater cold; the daemon is panicked and says: look at them", 20,
        status="failed", code=3, says="look at them now", confirmed=False,
    ),
    Row(
        "beam:hang", "the column hangs", STOPS, 45,
        status="failed", code=3, says="beam (temscript-beam)", clears=True,
    ),
    # Heater
    Row(
        "heater:error", "the heater refuses to heat", STOPS, 45,
        status="failed", code=3, says="heater (dens-impulse)", clears=True,
    ),
    Row(
        "heater:disconnectx1", "the heater hangs up in a hold", STOPS, 45, at="hold",
        status="failed", code=3, says="heater (dens-impulse)",
    ),
    Row(
        "heater:hang", "the heater hangs in a hold", STOPS, 45, at="hold",
        status="failed", code=3, says="heater (dens-impulse)", clears=True,
    ),
    Row("heater:slow=50 ms", "the heater answers late", "the hold is right", 40),
    Row(
        "heater:garbagex3", "noise on the heater's wire", STOPS, 45,
        status="failed", code=3, says="that is not Impulse's",
    ),
)  # fmt: skip


def rows() -> list[Any]:
    """The rows as pytest's parameters."""
    return [
        pytest.param(
            row,
            id=f"{row.fault}-{row.at}",
            marks=pytest.mark.fault(broken=row.broken, must=row.must, within_s=row.within_s),
        )
        for row in ROWS
    ]


@pytest.mark.parametrize("row", rows())
async def test_wire(row: Row, bench: Any) -> None:
    async def strike(daemon: Any) -> None:
        await asyncio.to_thread(bench.microscope.fault, row.fault)
        ends = row.clears or row.status == "failed"
        began = time.monotonic()
        while ends and str(daemon.machine.state) in {"preparing", "running"}:
            await asyncio.sleep(0.05)
            if row.fault.endswith("x1") and time.monotonic() - began > AGAIN_S:
                # The regular look at the column may have met it, which is not what fails a run.
                await asyncio.to_thread(bench.microscope.fault, row.fault)
                began = time.monotonic()
        if row.clears:
            await asyncio.to_thread(bench.microscope.fault, f"{row.fault.split(':')[0]}:none")

    ended = await bench.run(strike, row.at)
    assert ended.outcome.status == row.status, ended.said
    assert ended.code == row.code
    assert row.says in ended.said
    assert (ended.state == "panicked") is not row.confirmed, ended.said
    found = ended.found
    assert found["status"] == row.status
    assert (found["lost_frames"] > 0) is (row.lost > 0), ended.said
    assert found["lost_frames"] <= row.lost
    if row.status == "complete":
        assert found["frames"] + found["lost_frames"] == FRAMES
        assert found["holds"][0]["achieved_s"] == pytest.approx(0.5, abs=0.25)
