"""Faults of frames, and a frame that is drawn again because the image moved meanwhile."""

import asyncio

import numpy as np

from pyrotome.protocols.config.faults import parse_fault
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.simulators.servers.frame_source import Scan, Scanner
from pyrotome.simulators.servers.wire_faults import WireFaults
from pyrotome.simulators.world.microscope import World

FEW = {"kind": "cu-sintering", "particles": 4}
SCAN = Scan(4, (64, 64), 0.05, 0.05, np.uint16, 65_535, lambda counts: counts)


class Site:
    def __init__(self, **options):
        self.clock = ExperimentClock()
        rig = SimulatorRig.model_validate({"specimen": FEW, **options})
        self.world = World(rig, self.clock.now_ns())
        self.faults = WireFaults({"blank-frame", "same-frame"})
        self.frames = []
        self.scanner = Scanner(self.world, self.clock, self.take, faults=self.faults)

    async def take(self, shot):
        self.frames.append((shot.number, await shot.drawn))

    async def expose(self, *faults, frames=1):
        for fault in faults:
            self.faults.switch(parse_fault(f"detector:{fault}"))
        await self.scanner.expose(frames)
        return self.frames[-1][1]


async def test_a_blank_frame_and_one_that_comes_twice():
    site = Site()
    site.world.column.set_blanked(site.clock.now_ns(), False)
    await site.scanner.begin(SCAN)
    first = await site.expose()
    blank = await site.expose("blank-framex1")
    third = await site.expose()
    again = await site.expose("same-framex1")
    assert first.max() > 0
    assert blank.max() == 0
    assert not np.array_equal(first, third)
    np.testing.assert_array_equal(third, again)
    assert [number for number, _ in site.frames] == [1, 2, 3, 4]
    site.scanner.close()


async def test_a_shift_in_the_second_half_of_a_frame_moves_its_last_rows():
    site = Site(column={"rolling": True}, goniometer={"eucentric_error_nm": 0.0})
    site.world.column.set_blanked(site.clock.now_ns(), False)
    await site.scanner.begin(Scan(1, (64, 64), 1.0, 1.0, np.uint16, 65_535, lambda counts: counts))
    states = []
    look = site.world.scan.state

    def watch(t_ns, exposure=None):
        states.append(look(t_ns, exposure))
        return states[-1]

    site.world.scan.state = watch
    exposing = site.scanner.expose(1)
    await asyncio.sleep(0.75)
    site.world.column.deflect(site.clock.now_ns(), (0.0, 300.0))
    await exposing
    assert site.frames[0][1].shape == (64, 64)
    early, late = states[0].rows_nm, states[-1].rows_nm
    np.testing.assert_allclose(early[:30], late[:30], atol=0.1)
    assert np.abs(late[-4:] - early[-4:]).max() > 290.0
    site.scanner.close()
