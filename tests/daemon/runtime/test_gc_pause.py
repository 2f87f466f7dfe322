"""No collection in the moments of a hold that must be exact, and collections again afterwards."""

import asyncio
import gc
from typing import Any

import pytest

from pyrotome.daemon.runtime.gc_pause import gc_frozen, gc_paused


def litter(count: int = 3000) -> None:
    """Objects that only a collection can free, far more than it takes to start one."""
    for _ in range(count):
        ring: list[Any] = []
        ring.append(ring)


@pytest.fixture
def collections():
    """Generations collected, as they are."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


def test_nothing_is_collected_within(collections):
    litter()
    assert collections, "this much litter starts collections"
    with gc_paused():
        collections.clear()
        litter(100_000)
        assert not collections
    litter()
    assert collections


def test_windows_may_lie_in_each_other_and_end_with_an_error(collections):
    with gc_paused():
        collections.clear()
        with pytest.raises(KeyError), gc_paused():
            raise KeyError
        litter(100_000)
        assert not collections
    assert gc.isenabled()


def test_what_start_up_has_made_is_not_looked_through_again():
    before = gc.get_freeze_count()
    with gc_frozen():
        assert gc.get_freeze_count() > before
        assert len(gc.get_objects()) < gc.get_freeze_count()
    assert gc.get_freeze_count() == 0


async def test_other_tasks_run_on_meanwhile(collections):
    async def busy() -> None:
        while True:
            litter(200)
            await asyncio.sleep(0)

    task = asyncio.create_task(busy())
    with gc_paused():
        collections.clear()
        await asyncio.sleep(0.05)
        assert not collections
    await asyncio.sleep(0.05)
    assert collections
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
