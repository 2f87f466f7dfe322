"""What a run sends: frames as the detector sent them, holds and clocks, and waits for credit."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import numpy as np
from consumer import linked

from pyrotome.daemon.schedule.hold_timing import HoldTiming
from pyrotome.daemon.streaming import run_streams
from pyrotome.daemon.streaming.run_streams import RunStreams
from pyrotome.daemon.streaming.telemetry_hub import PublishedEvent
from pyrotome.protocols.core.bitshuffle import Bitshuffle
from pyrotome.protocols.core.chunk import ENCODING, Chunk
from pyrotome.protocols.messages.stream import Message, array_of
from pyrotome.protocols.messages.tracking import FrameTaken, ShiftSet

FRAME = np.arange(64, dtype=np.uint16).reshape(8, 8)


async def test_frames_come_as_the_detector_sent_them() -> None:
    async with linked() as here:
        streams = RunStreams(here.hub, here.link, "merlin")
        await here.connect()
        here.hub.stamper.run = "run-1"
        chunk = Chunk((8, 8), "uint16", bytes(Bitshuffle().compress(FRAME)))
        for index, data in enumerate((FRAME, chunk, None)):
            streams.frame({"series": "series_001", "index": index}, data, 7 + index)
        raw, compressed, lost = [await here.receive() for _ in range(3)]
        assert {m.topic for m in (raw, compressed, lost)} == {"frame/merlin"}
        assert [m.header["seq"] for m in (raw, compressed, lost)] == [0, 1, 2]
        assert raw.header["run"] == "run-1"
        assert raw.header["t_ns"] == 7
        np.testing.assert_array_equal(array_of(raw), FRAME)
        assert compressed.header["encoding"] == ENCODING
        np.testing.assert_array_equal(array_of(compressed), FRAME)
        assert lost.header["lost"] is True
        assert lost.payload == ()
        await streams.close()


async def test_holds_and_clock_pairs_have_topics_of_their_own() -> None:
    async with linked() as here:
        streams = RunStreams(here.hub, here.link, "merlin")
        await here.connect()
        timing = HoldTiming(1, 2, 3, 4)
        streams.hold(5, timing)
        streams.clock_pair({"monotonic_ns": 1, "utc_ns": 2, "uncertainty_ns": 3})
        hold, clock = await here.receive(), await here.receive()
        assert (hold.topic, hold.header["type"], hold.header["index"]) == ("hold", "hold", 5)
        assert {key: hold.header[key] for key in asdict(timing)} == asdict(timing)
        assert (clock.topic, clock.header["uncertainty_ns"]) == ("clock", 3)
        assert here.publisher.last["hold"] == hold


async def test_a_wait_for_credit_says_how_many_frames_are_not_written() -> None:
    async with linked() as here:
        streams = RunStreams(here.hub, here.link, "merlin")
        events: list[dict[str, Any]] = []
        here.bus.subscribe(PublishedEvent, lambda published: events.append(published.header))
        await here.connect(credit=1)
        await streams.credit()
        assert events == []
        streams.frame({"series": "s", "index": 0}, FRAME, 7)
        waiting = asyncio.create_task(streams.credit())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert events[0]["message"] == ("waiting at standby for recorder: 1 frames not yet written")
        await here.answer("credit", {"frames": 1})
        await asyncio.wait_for(waiting, 10)
        assert events[1]["message"] == "no longer waiting for recorder"
        await streams.close()


async def test_keeping_asks_for_a_flush_and_waits_until_the_disk_has_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(run_streams, "SILENT_WAIT_S", 0.05)
    async with linked() as here:
        streams = RunStreams(here.hub, here.link, "merlin")
        await here.connect()
        streams.frame({"series": "s", "index": 0}, FRAME, 7)
        keeping = asyncio.create_task(streams.keep())
        assert (await here.receive()).topic == "frame/merlin"
        assert (await here.receive()).topic == "flush"
        await here.answer("status", {"dealt": 1, "kept": 0})
        await asyncio.sleep(0.1)
        assert not keeping.done()
        await here.answer("status", {"dealt": 1, "kept": 1})
        await asyncio.wait_for(keeping, 10)
        await streams.close()


async def test_a_stop_that_comes_with_the_last_acknowledgement_is_not_forgotten() -> None:
    async with linked() as here:
        streams = RunStreams(here.hub, here.link, "merlin")
        stopped = 0
        for rounds in range(8):
            keeping = asyncio.create_task(streams.keep())
            for _ in range(rounds):
                await asyncio.sleep(0)
            if keeping.done():
                break
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            assert keeping.cancelled(), f"after {rounds} rounds of the event loop"
            stopped += 1
        assert stopped


async def test_an_analysis_is_sent_the_headers_of_frames_from_before_it() -> None:
    async with linked() as here:
        streams = RunStreams(here.hub, here.link, "merlin")
        headers = [Message("frame/merlin", {"index": k, "in_file": True}) for k in range(3)]
        await streams.send_recorded(headers)
        await here.connect("analysis")
        await streams.send_recorded(headers)
        assert [(await here.receive()).header["index"] for _ in range(3)] == [0, 1, 2]
        assert here.link.consumers["analysis"].backlog == 3


async def test_before_and_after_the_run_nothing_waits_and_nothing_is_sent() -> None:
    async with linked() as here:
        streams = RunStreams(here.hub, here.link, "merlin")
        await streams.credit(5)
        await streams.keep()
        assert streams.most_at_a_time == 1
        streams.frame({"series": "s", "index": 0}, FRAME, 7)
        assert streams.losses() == {"analysis": {"headers_only": 0}, "views": {"not_shown": 0}}
        await streams.close()


async def test_the_picture_of_a_scout_goes_to_the_recorder_too() -> None:
    async with linked() as here:
        streams = RunStreams(here.hub, here.link, "merlin")
        await here.connect()
        told = FrameTaken(
            t_ns=7, series="series_001", index=3, scan="scout", tilt_deg=2.0, field_nm=8.0,
            dose_e_per_nm2=0.02, shift_nm=(1.0, -2.0),
        )  # fmt: skip
        streams.tracking(ShiftSet(t_ns=6, shift_nm=(0.0, 0.0)))
        streams.tracking(told, FRAME)
        scout = await here.receive()
        assert scout.topic == "scout", "what is told without a picture is for the tracker alone"
        assert scout.header | {"scan": "scout", "t_ns": 7, "shift_nm": [1, -2]} == scout.header
        np.testing.assert_array_equal(array_of(scout), FRAME)
        assert here.link.consumers["recorder"].credit == 10, "it costs none"
        await streams.close()
