"""Answers to scouts: the one thing that the engine waits for, and not for long."""

from __future__ import annotations

import asyncio

from ...protocols.messages.tracking import OffsetMeasured

# Wall seconds. A tracker answers within some ms; on a busy computer it may have to wait for a core.
# A frame that is exposed in vain costs more than the time.
ANSWER_S = 3.0


class ScoutAnswers:
    """What the tracker says of the latest scout, known by the time at which it was taken."""

    def __init__(self) -> None:
        self._awaited: tuple[int, asyncio.Future[OffsetMeasured]] | None = None

    def expect(self, t_ns: int) -> asyncio.Future[OffsetMeasured]:
        """Before a scout goes to the tracker: what its answer will be put into."""
        answer = asyncio.get_running_loop().create_future()
        self._awaited = t_ns, answer
        return answer

    def note(self, found: OffsetMeasured) -> None:
        """Take in an answer; one that nobody waits for any more is dropped."""
        if self._awaited is not None and self._awaited[0] == found.t_ns:
            (_, answer), self._awaited = self._awaited, None
            answer.set_result(found)


async def answer_to(scout: asyncio.Future[OffsetMeasured]) -> OffsetMeasured | None:
    """Wait for the answer to a scout; None if it does not come within `ANSWER_S`."""
    done, _ = await asyncio.wait([scout], timeout=ANSWER_S)
    return scout.result() if done else None
