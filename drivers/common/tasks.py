"""End a background task of a driver, and log how it had failed."""

from __future__ import annotations

import asyncio
import logging

_log = logging.getLogger(__name__)


async def end_task(task: asyncio.Task[None] | None, device: str, purpose: str) -> None:
    """Cancel a task and wait for its end.

    Parameters
    ----------
    task : asyncio.Task or None
        Harmless when None, or over already.
    device : str
        Name of the device, for the log.
    purpose : str
        What the task does, such as ``reading samples``: logged where it had failed.
    """
    if task is None:
        return
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s: %s had failed", device, purpose, exc_info=error)
