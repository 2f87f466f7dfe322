"""Logs in an open run file: telemetry by device and channel, and the events of the run."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import layout

Floats = NDArray[np.float64]


def utc_of(time_s: Floats, start_ns: int) -> NDArray[np.datetime64]:
    """Times of the file in UTC.

    Parameters
    ----------
    time_s : ndarray of shape (n,)
        Seconds since the start of the run, NaN where not known.
    start_ns : int
        The start of the run in UTC nanoseconds.

    Returns
    -------
    ndarray of datetime64[ns], shape (n,)
        NaT where not known.
    """
    known = np.isfinite(time_s)
    # As integers: nanoseconds since 1970 have more digits than a float.
    since_ns = np.rint(np.where(known, time_s, 0.0) * 1e9).astype(np.int64)
    utc = (start_ns + since_ns).astype("datetime64[ns]")
    utc[~known] = np.datetime64("NaT")
    return utc


@dataclass(frozen=True)
class Channel:
    """Log of one channel of a device, as far as it was written when it was read.

    Attributes
    ----------
    name : str
        Such as ``temperature_c``.
    time_s : ndarray of shape (samples,)
        Seconds since the start of the run.
    values : ndarray of shape (samples,)
        NaN where the device gave no value.
    units : str
        Of the values; empty where they have none.
    start_ns : int
        The start of the run in UTC nanoseconds.
    """

    name: str
    time_s: Floats
    values: Floats
    units: str
    start_ns: int

    @property
    def time_utc(self) -> NDArray[np.datetime64]:
        """Times of the samples in UTC, shape (samples,)."""
        return utc_of(self.time_s, self.start_ns)

    def __len__(self) -> int:
        return len(self.time_s)

    def __repr__(self) -> str:
        return f"<{self.name}{f' in {self.units}' if self.units else ''}, {len(self)} samples>"


class DeviceLog(Mapping[str, Channel]):
    """Channels of one device by name; a channel is read when it is looked up.

    Parameters
    ----------
    group : h5py.Group
        Its NXlog groups.
    name : str
        Of the device.
    """

    def __init__(self, group: Any, name: str) -> None:
        self._group, self.name = group, name

    def __getitem__(self, channel: str) -> Channel:
        log = self._group[channel]
        time, value = log["time"], log["value"]
        for dataset in (time, value) if self._group.file.swmr_mode else ():
            dataset.refresh()
        # A growing file may have the one written before the other.
        count = min(len(time), len(value))
        return Channel(
            channel,
            np.asarray(time[:count], np.float64),
            np.asarray(value[:count], np.float64),
            str(value.attrs.get("units", "")),
            int(time.attrs["start_ns"]),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._group)

    def __len__(self) -> int:
        return len(self._group)

    def __repr__(self) -> str:
        return f"<telemetry of {self.name}: {', '.join(self)}>"


class Telemetry(Mapping[str, DeviceLog]):
    """Devices of a run file by name, such as ``telemetry["heater"]["temperature_c"]``.

    Parameters
    ----------
    file : h5py.File
        The open file.
    """

    def __init__(self, file: Any) -> None:
        self._devices: Mapping[str, Any] = file.get(layout.TELEMETRY, {})

    def __getitem__(self, device: str) -> DeviceLog:
        return DeviceLog(self._devices[device], device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._devices)

    def __len__(self) -> int:
        return len(self._devices)

    def __repr__(self) -> str:
        devices = [f"{name} ({', '.join(device)})" for name, device in self.items()]
        return f"<telemetry: {'; '.join(devices)}>"


@dataclass(frozen=True)
class RecordedEvent:
    """One event of a run.

    Attributes
    ----------
    time_s : float
        Seconds since the start of the run.
    level : str
        ``info``, ``warning`` or ``error``.
    source, message : str
        Which part of the daemon or which device it concerns, and what happened.
    body : mapping
        Everything that was recorded of it; empty where it was too long to be kept whole.
    """

    time_s: float
    level: str
    source: str
    message: str
    body: Mapping[str, Any]


def events_of(file: Any) -> list[RecordedEvent]:
    """Events of an open run file, in the order in which they were recorded.

    Parameters
    ----------
    file : h5py.File
        An open run file.

    Returns
    -------
    list of RecordedEvent
        Empty where there are none.
    """
    if layout.EVENTS not in file:
        return []
    group = file[layout.EVENTS]
    datasets = [group[name] for name in ("time", *layout.EVENT_TEXT)]
    for dataset in datasets if file.swmr_mode else ():
        dataset.refresh()
    rows = zip(*(dataset[...] for dataset in datasets), strict=False)
    return [
        RecordedEvent(float(time_s), _text(level), _text(source), _text(message), _body(body))
        for time_s, level, source, message, body in rows
    ]


def warnings_of(events: Iterable[RecordedEvent], stack: str) -> list[str]:
    """What analysis and import have said of the data of a stack that cannot be right.

    Parameters
    ----------
    events : iterable of RecordedEvent
        Events of the run.
    stack : str
        Such as ``series_001``.

    Returns
    -------
    list of str
        Messages of warnings and errors, in their order, each once.
    """
    said = (
        event.message
        for event in events
        if event.source in ("analysis", "import")
        and event.level in ("warning", "error")
        and event.message.startswith((f"{stack}:", f"{stack} "))
    )
    return list(dict.fromkeys(said))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _body(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:  # cut, because it was too long
        return {}
    return body if isinstance(body, dict) else {}
