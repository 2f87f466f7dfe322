"""Virtual time: what waits in asyncio waits for a clock that jumps to the next moment at once.

What takes two seconds by the clock takes as long as it computes, and comes out the same however
busy the computer is. The bytes still go through the operating system: use pairs of Unix sockets,
where what was written can be read at once.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

_Result = TypeVar("_Result")


class _Jumping(selectors.DefaultSelector):
    """Does not wait for a timer: moves the clock to it."""

    def __init__(self, start_ns: int) -> None:
        super().__init__()
        self.now_ns = start_ns

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:  # another thread has something to say, such as a resolver
            return super().select(None)
        found = super().select(0)
        if not found and timeout > 0:
            self.now_ns += math.ceil(timeout * 1e9)
        return found


def run_in_virtual_time(work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    """Run a coroutine to its end, with `time.monotonic` virtual in this process meanwhile.

    Parameters
    ----------
    work : callable
        Makes the coroutine.

    Returns
    -------
    object
        What the coroutine returns.
    """
    selector = _Jumping(time.monotonic_ns())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic_ns", lambda: selector.now_ns)
        patch.setattr(time, "monotonic", lambda: selector.now_ns * 1e-9)
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            return runner.run(work())
