"""Keep the garbage collector out of the moments that must be exact."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def start_frozen() -> Iterator[None]:
    """Take what start-up has made out of every later collection, which is then short.

    Modules, models and connections live as long as the daemon: looking through them takes tens of
    milliseconds and never finds anything.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def collector_away() -> Iterator[None]:
    """No collection happens within; what is young is collected before.

    For seconds, not hours: what refers to itself stays in memory meanwhile.
    """
    if not gc.isenabled():
        yield
        return
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
