"""Pause the garbage collector while moments must be exact."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Exempt the objects that exist now from every collection within, which is then short.

    Modules, models and connections live as long as the daemon: to search them takes tens of
    milliseconds and never frees anything.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def gc_paused() -> Iterator[None]:
    """Run no collection within; young objects are collected before.

    For seconds, not hours: reference cycles stay in memory meanwhile.
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
