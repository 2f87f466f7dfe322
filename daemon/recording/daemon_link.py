"""The recorder's end of its link to the daemon: takes messages, and sends status and reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import zmq

from ...protocols.messages import credit_link as link

_MAX_REPORTS = 1000

Level = Literal["warning", "error"]


class DaemonLink:
    """A connected socket to the daemon.

    Parameters
    ----------
    socket : zmq.Socket
        Connected DEALER.
    on_lost : callable
        Called when the daemon takes no more messages.
    """

    def __init__(self, socket: zmq.Socket[bytes], on_lost: Callable[[], None]) -> None:
        self._socket, self._on_lost = socket, on_lost
        self._reported: set[str] = set()

    def poll(self, timeout_ms: int) -> bool:
        """Wait for a message, at most `timeout_ms` milliseconds; whether there is one."""
        return bool(self._socket.poll(timeout_ms))

    def receive(self) -> list[memoryview] | None:
        """Parts of the next message, not copied; None where there is none yet."""
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        return [frame.buffer for frame in frames]

    def send(self, kind: link.Kind, body: dict[str, Any]) -> None:
        """Send a message without waiting.

        Parameters
        ----------
        kind : str
            One of `credit_link.KINDS`.
        body : dict
            Its fields.
        """
        try:
            self._socket.send_multipart(link.upstream(kind, body), zmq.NOBLOCK)
        except zmq.Again:
            self._on_lost()

    def report(self, level: Level, text: str, *, again: bool = False) -> None:
        """Send an event, which the daemon publishes and sends back to be recorded.

        Parameters
        ----------
        level : str
            ``warning`` or ``error``.
        text : str
            What happened; each text is sent once.
        again : bool
            Send a text also when it was sent before.
        """
        if not again:
            if text in self._reported or len(self._reported) >= _MAX_REPORTS:
                return
            self._reported.add(text)
        self.send("event", {"level": level, "source": "recorder", "message": text})
