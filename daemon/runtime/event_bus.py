"""The in-process event bus: publishers and subscribers know message types, not each other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Event:
    """Something that a person should know, now or when the file is read.

    Attributes
    ----------
    level : str
        ``info``, ``warning`` or ``error``.
    source : str
        The part of the program, or the device, that it is about.
    message : str
        The text.
    details : mapping
        Further values, as JSON.
    recorded : bool
        Whether the run file holds it as well; otherwise monitors alone get it.
    """

    level: str
    source: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    recorded: bool = True


@dataclass(frozen=True)
class _Subscriber:
    """One callback, and whether its errors go to the publisher."""

    callback: Callable[[Any], object]
    required: bool


class EventBus:
    """Delivers each published object to the subscribers of its type.

    Delivery is synchronous and in the order of subscription: when `publish` returns, every
    subscriber has run. A subscriber that raises is logged and dropped, and never disturbs the
    publisher. The error of a `required` subscriber, one that safety or the run file depends on,
    is raised by `publish` after all others have run; it stays subscribed.
    """

    def __init__(self) -> None:
        self._subscribers: dict[type, list[_Subscriber]] = {}

    def subscribe(
        self, topic: type[T], callback: Callable[[T], object], *, required: bool = False
    ) -> Callable[[], None]:
        """Call `callback` with every object of a type that is published from now on.

        Parameters
        ----------
        topic : type
            Class of the objects; objects of its subclasses are other topics.
        callback : callable
            Takes the object; must return at once.
        required : bool
            Whether an error of the callback is an error of the publisher.

        Returns
        -------
        callable
            Ends the subscription; harmless when called again.
        """
        subscriber = _Subscriber(callback, required)
        self._subscribers.setdefault(topic, []).append(subscriber)
        return lambda: self._drop(topic, subscriber)

    def _drop(self, topic: type, subscriber: _Subscriber) -> None:
        # By identity: two equal subscriptions are two subscriptions.
        kept = [other for other in self._subscribers[topic] if other is not subscriber]
        self._subscribers[topic] = kept

    def publish(self, message: object) -> None:
        """Deliver an object to the subscribers of its type.

        Raises
        ------
        Exception
            The first error of a required subscriber.
        """
        failure: Exception | None = None
        topic = type(message)
        for subscriber in tuple(self._subscribers.get(topic, ())):
            try:
                subscriber.callback(message)
            except Exception as error:
                if subscriber.required:
                    failure = failure or error
                else:
                    self._drop(topic, subscriber)
                    _log.warning(
                        "a subscriber of %s is dropped, it raised %r", topic.__name__, error
                    )
        if failure is not None:
            raise failure

    def event(self, level: str, source: str, message: str, **details: Any) -> None:
        """Publish an `Event`; see its attributes."""
        self.publish(Event(level, source, message, details))
