"""Give stream messages their header: type, run, sequence number per topic, time."""

from __future__ import annotations

from typing import Any

from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.stream import Message


class MessageStamper:
    """Makes every stream message of a daemon, so that the numbers of a topic have no gaps.

    Parameters
    ----------
    clock : ExperimentClock
        Time of messages that do not bring their own.

    Attributes
    ----------
    run : str or None
        Identifier of the run under way.
    """

    def __init__(self, clock: ExperimentClock) -> None:
        self._clock = clock
        self._next_seq: dict[str, int] = {}
        self.run: str | None = None

    def stamp(
        self,
        topic: str,
        kind: str,
        body: dict[str, Any],
        payload: tuple[Any, ...] = (),
        t_ns: int | None = None,
    ) -> Message:
        """Make the next message of a topic; messages are to be sent in the order of their numbers.

        Parameters
        ----------
        topic : str
            Such as ``telemetry/heater``.
        kind : str
            The header's ``type``.
        body : dict
            Further keys of the header.
        payload : tuple of buffers
            Raw bytes or C-ordered arrays.
        t_ns : int, optional
            UTC nanoseconds on the experiment clock; now if absent.
        """
        seq = self._next_seq.get(topic, 0)
        self._next_seq[topic] = seq + 1
        header = {
            "type": kind,
            "run": self.run,
            "seq": seq,
            "t_ns": self._clock.now_ns() if t_ns is None else t_ns,
            **body,
        }
        return Message(topic, header, payload)
