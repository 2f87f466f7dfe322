"""The last message of every topic, for late subscribers; bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict

from ...protocols.messages.stream import Message

LAST = "last/"
# Largest payload that is kept with its header, and largest sum of all kept payloads.
KEPT_PAYLOAD_BYTES = 262_144
KEPT_BYTES = 8_000_000
MOST_TOPICS = 500


class LastValues:
    """Keeps the last message of each topic: its header, and its payload if that is small."""

    def __init__(self) -> None:
        self._messages: OrderedDict[str, Message] = OrderedDict()
        self._bytes = 0

    @property
    def payload_bytes(self) -> int:
        """Bytes of the payloads that are kept."""
        return self._bytes

    def note(self, message: Message) -> None:
        """Keep a message that is being sent."""
        self._forget(message.topic)
        payload = ()
        if message.payload and (size := payload_bytes(message)) <= KEPT_PAYLOAD_BYTES:
            self._bytes += size
            payload = tuple(memoryview(part).tobytes() for part in message.payload)
        self._messages[message.topic] = Message(message.topic, message.header, payload)
        while len(self._messages) > MOST_TOPICS:
            self._forget(next(iter(self._messages)))
        for topic, old in list(self._messages.items()) if self._bytes > KEPT_BYTES else ():
            if old.payload and topic != message.topic:
                self._bytes -= payload_bytes(old)
                self._messages[topic] = Message(topic, old.header)
            if self._bytes <= KEPT_BYTES:
                break

    def _forget(self, topic: str) -> None:
        old = self._messages.pop(topic, None)
        if old is not None:
            self._bytes -= payload_bytes(old)

    def matching(self, prefix: str) -> list[Message]:
        """The last messages of topics with a prefix, as a subscriber of ``last/`` gets them."""
        return [
            Message(LAST + topic, message.header, message.payload)
            for topic, message in self._messages.items()
            if topic.startswith(prefix)
        ]


def payload_bytes(message: Message) -> int:
    """Bytes of a message's payload."""
    return sum(memoryview(part).nbytes for part in message.payload)
