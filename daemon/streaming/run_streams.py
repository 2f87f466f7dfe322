"""What a run sends: frames, readings, holds and clock pairs, to monitors and recorder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from ...drivers.readings import FrameData
from ...protocols.core.chunk import ENCODING, Chunk
from ...protocols.messages.credit_link import ANALYSIS, RECORDER, TRACKER, TRACKING_TOPIC
from ...protocols.messages.scouts import scout_message
from ...protocols.messages.stream import STEERING_TOPIC, Message
from ...protocols.messages.tracking import FrameTaken, Told, encode_tracking
from ..runtime.event_bus import Event
from ..schedule.hold_timing import HoldTiming
from .credit_link import CreditLink
from .previews import FramePreviews
from .telemetry_hub import TelemetryHub

# Wall seconds after which a wait of the schedule is worth an event.
SILENT_WAIT_S = 1.0


class RunStreams:
    """The outgoing streams of one run.

    Recorder and analysis get the pixels as the detector sent them, monitors get them raw.

    Parameters
    ----------
    hub : TelemetryHub
        Stamps the messages and sends them to monitors.
    link : CreditLink
        To recorder and analysis.
    detector : str
        Name of the detector's driver, the topic of the frames.
    """

    def __init__(self, hub: TelemetryHub, link: CreditLink, detector: str) -> None:
        self._hub, self._link = hub, link
        self._topic = f"frame/{detector}"
        self._previews = FramePreviews(
            hub.publisher,
            hub.stamper,
            f"preview/{detector}",
            lambda text: self.event("error", "engine", text),
        )

    # --- backpressure ---------------------------------------------------------------------------

    @property
    def most_at_a_time(self) -> int:
        """Number of frames for which credit can be had at once."""
        return self._link.most_at_a_time

    async def credit(self, frames: int = 1) -> None:
        """Wait until the recorder can take so many frames."""
        await self._wait(frames)

    async def keep(self) -> None:
        """Wait until every frame sent so far is on the disk."""
        self._link.ask_to_keep()
        # Milliseconds as a rule, which are not worth an event.
        # Not wait_for: it forgets a cancellation that comes together with the last acknowledgement.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENT_WAIT_S):
                await self._link.credit(0, kept=True)
        await self._wait(0, kept=True)

    async def _wait(self, frames: int, kept: bool = False) -> None:
        waiting = self._link.waiting_for(frames, kept)
        if not waiting:
            return
        why = "; ".join(f"{name}: {what}" for name, what in waiting.items())
        self.event("warning", "engine", f"waiting at standby for {why}", waiting_for=waiting)
        await self._link.credit(frames, kept)
        self.event("info", "engine", f"no longer waiting for {', '.join(waiting)}")

    # --- messages -------------------------------------------------------------------------------

    def frame(self, header: dict[str, Any], data: FrameData | None, t_ns: int) -> None:
        """Send a frame, or the notice of a lost one, to recorder, analysis and monitors.

        Parameters
        ----------
        header : dict
            Series, index, angles, temperature, dose.
        data : ndarray or Chunk or None
            The pixels as the detector sent them; None for a lost frame.
        t_ns : int
            The middle of the exposure, on the experiment clock.
        """
        more, payload = ({"lost": True}, ()) if data is None else _pixels(data)
        message = self._hub.stamper.stamp(self._topic, "frame", header | more, payload, t_ns)
        self._link.send(message, frame=True)
        self._previews.show(message, data)

    def left_out(self, series: str, indices: Sequence[int]) -> None:
        """Tell the analysis that frames of a series will not be taken: the series is over."""
        for index in indices:
            header = {"type": "frame", "series": series, "index": index, "lost": True}
            message = Message(self._topic, {**header, "left_out": True, "in_file": True})
            self._link.send_recorded(ANALYSIS, message)

    def telemetry(self, device: str, values: dict[str, float], t_ns: int) -> None:
        """Send readings of a device to monitors and recorder; see `TelemetryHub.telemetry`."""
        self._hub.telemetry(device, values, t_ns)

    def event(self, level: str, source: str, message: str, **details: Any) -> None:
        """Make an event; see `event_bus.Event`."""
        self._hub.bus.event(level, source, message, **details)

    def hold(self, index: int, timing: HoldTiming) -> None:
        """Send the four moments of a hold to monitors and recorder.

        Parameters
        ----------
        index : int
            Number of the hold in the run, from 1.
        timing : HoldTiming
            Its moments.
        """
        body = {"index": index, **asdict(timing)}
        self._hub.record(self._hub.publish("hold", "hold", body))

    def steering(self, row: dict[str, Any]) -> None:
        """Send a row of the table of adaptive holds to monitors and recorder."""
        self._hub.record(self._hub.publish(STEERING_TOPIC, "steering", row))

    def clock_pair(self, pair: dict[str, int]) -> None:
        """Send a reading of monotonic and UTC time to monitors and recorder.

        Parameters
        ----------
        pair : dict
            ``monotonic_ns``, ``utc_ns``, ``uncertainty_ns``, ``experiment_ns``.
        """
        self._hub.record(self._hub.publish("clock", "clock", pair))
        event = Event("info", "clock", "clock reading", {"clock": pair}, recorded=False)
        self._hub.bus.publish(event)

    def tracking(self, told: Told, pixels: FrameData | None = None) -> None:
        """Tell the tracker what happened between frames, or what a scout showed, with its pixels.

        Frames of the plan go to it by `frame`. The pictures of scouts go to the recorder too, after
        the tracker, whose answer is waited for.
        """
        more, payload = ({}, ()) if pixels is None else _pixels(pixels)
        message = Message(TRACKING_TOPIC, more, (encode_tracking(told), *payload))
        self._link.send_only(TRACKER, message)
        if isinstance(told, FrameTaken) and told.scan != "frame":
            self._link.send_only(RECORDER, scout_message(told, more, payload))

    async def send_recorded(self, headers: Iterable[Message]) -> None:
        """Send the analysis the headers of frames that were recorded before it was started."""
        if ANALYSIS not in self._link.consumers:
            return
        for number, message in enumerate(headers):
            self._link.send_recorded(ANALYSIS, message)
            if number % 1000 == 0:
                await asyncio.sleep(0)

    # --- losses and end -------------------------------------------------------------------------

    def losses(self) -> dict[str, dict[str, int]]:
        """What analysis and monitors have missed since the run began."""
        analysis = self._link.consumers.get(ANALYSIS)
        return {
            "analysis": {"headers_only": analysis.headers_only if analysis is not None else 0},
            "views": {"not_shown": self._previews.not_shown},
        }

    async def close(self) -> None:
        """Send the previews that still wait."""
        await self._previews.close()


def _pixels(data: FrameData) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """What a header says of pixels, and the payload."""
    if isinstance(data, Chunk):
        header = {"shape": list(data.shape), "dtype": data.dtype, "encoding": ENCODING}
        return header, (data.raw,)
    return {"shape": list(data.shape), "dtype": data.dtype.name}, (data,)
