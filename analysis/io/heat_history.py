"""Match a heater log with the frames of a series by time, and find the holds in it.

Pure: no I/O. Times of logs and frames are local times of the computers that wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput
from ...protocols.messages.manifest import HoldPlan
from .heater_logs import HeaterLog

Floats = NDArray[np.float64]

OPTION = "--heater-log"
# A frame this long after the last sample has the temperature of that sample.
_LONGEST_GAP_S, _GAP_STEPS = 10.0, 5.0
_STEADY_C = 5.0
_SAME_CLOCK_S = 86_400.0
_LEAST_TOLERANCE_C, _TOLERANCE_SHARE = 2.0, 0.02
_LEAST_HOLD_C = 10.0


@dataclass(frozen=True)
class Timing:
    """What is known of the time of the frames.

    Attributes
    ----------
    times : ndarray of datetime64[ms] or None
        Moment of each frame, shape (frames,), if the files tell it.
    started : datetime or float or None
        Start of the first frame as the user gave it: a moment, or seconds after the start of the
        heater log.
    interval_s : float or None
        Time from the start of a frame to that of the next, as the user gave it.
    """

    times: NDArray[np.datetime64] | None = None
    started: datetime | float | None = None
    interval_s: float | None = None


@dataclass(frozen=True)
class HeatHistory:
    """What the specimen went through, in seconds since the start of the run.

    Attributes
    ----------
    started : datetime or None
        Start of the run on the clock of the log; None where it is not known.
    log_s : ndarray of shape (samples,)
        Times of the samples.
    log : HeaterLog or None
        The samples; None for a series without a log, which has times all the same.
    frame_s : ndarray of shape (frames,)
        Time of each frame; NaN where it is not known.
    temperature_c : ndarray of shape (frames,)
        Of each frame; NaN where it is not known.
    holds : tuple of HoldPlan
        Holds that the log shows, in order.
    holds_before : int
        How many of them ended before the first frame.
    told : str
        How frames and log were matched.
    warnings : tuple of str
        What of it is in doubt.
    """

    started: datetime | None
    log_s: Floats
    log: HeaterLog | None
    frame_s: Floats
    temperature_c: Floats
    holds: tuple[HoldPlan, ...] = ()
    holds_before: int = 0
    told: str = ""
    warnings: tuple[str, ...] = ()


def frame_times(timing: Timing, frames: int) -> tuple[Floats, str]:
    """Time of each frame in seconds since the first began, NaN where not known, and how.

    Parameters
    ----------
    timing : Timing
        What is known.
    frames : int
        How many there are.

    Returns
    -------
    time_s : ndarray of shape (frames,)
    how : str
        For the user; empty if the times are not known.
    """
    if timing.times is not None and len(timing.times) == frames:
        since = timing.times - timing.times.min()
        seconds = np.asarray(since / np.timedelta64(1, "s"), np.float64)
        return seconds, "by the times of the frames"
    if timing.interval_s is not None:
        how = f"one frame each {timing.interval_s:g} s in the order of the stack"
        return np.arange(frames, dtype=np.float64) * float(timing.interval_s), how
    known = np.full(frames, np.nan)
    return known, ""


def match(log: HeaterLog, timing: Timing, frames: int, where: str) -> HeatHistory:
    """Find the time of each frame in a heater log.

    Parameters
    ----------
    log : HeaterLog
        The log.
    timing : Timing
        What is known of the frames.
    frames : int
        How many there are.
    where : str
        Names of log and stack, for messages.

    Returns
    -------
    HeatHistory

    Raises
    ------
    BadInput
        If the time of the first frame in the log is not known.
    """
    since_first, how = frame_times(timing, frames)
    first = _first_frame(timing)
    zero_s, placed = _place(log, timing, first, where)  # of the first frame, in the log's time
    begin_s = min(zero_s, float(log.time_s[0]))
    log_s, frame_s = log.time_s - begin_s, since_first + (zero_s - begin_s)
    first_s = zero_s - begin_s
    temperature_c, warnings = _of_frames(log_s, log.temperature_c, frame_s, first_s)
    if not np.isfinite(frame_s).any():
        frame_s = np.where(np.arange(frames) == 0, first_s, np.nan)
    holds, ends_s = find_holds(log_s, log.temperature_c)
    if log.left_out:
        warnings.append(f"{log.left_out} lines of the log have no temperature and are left out")
    moment = first if first is not None else _clock_of(log, zero_s)
    started = None if moment is None else _earlier(moment, first_s)
    told = f"{log.form} log, {len(log_s)} samples, matched by {placed}" + (
        f"; {how}" if how else ""
    )
    before = sum(end_s <= first_s for end_s in ends_s)
    return HeatHistory(
        started, log_s, log, frame_s, temperature_c, holds, before, told, tuple(warnings)
    )


def without_log(timing: Timing, frames: int) -> HeatHistory | None:
    """Times of the frames of a series without a heater log; None where they are not known."""
    since_first, how = frame_times(timing, frames)
    if not how:
        return None
    unknown = np.full(frames, np.nan)
    first = _first_frame(timing)
    return HeatHistory(first, np.empty(0), None, since_first, unknown, told=f"times: {how}")


def _first_frame(timing: Timing) -> datetime | None:
    """Moment at which the first frame began."""
    if isinstance(timing.started, datetime):
        return timing.started
    if timing.times is not None and timing.started is None:
        return timing.times.min().astype("datetime64[ms]").astype(datetime)
    return None


def _place(log: HeaterLog, timing: Timing, first: datetime | None, where: str) -> tuple[float, str]:
    """Time in the log at which the first frame began, and how that is known."""
    if isinstance(timing.started, int | float):
        return float(timing.started), "--started"
    if log.from_first_frame:
        if isinstance(timing.started, datetime):
            raise BadInput(
                "--started",
                "the log counts its time from the start of the first frame; leave it away",
            )
        return 0.0, "its time, which counts from the start of the first frame"
    if log.start is None:
        raise BadInput(
            OPTION,
            f"{where}: the log has no date; say when the first frame began, in seconds after the "
            "start of the log, as in --started '120 s'",
        )
    if first is None:
        raise BadInput(
            OPTION,
            f"{where}: the log begins at {log.start:%Y-%m-%d %H:%M:%S}, and the frames have no "
            "times; say when the first frame began on the clock of the log, as in "
            f"--started '{log.start:%Y-%m-%d %H:%M:%S}', and the time from frame to frame, as in "
            "--frame-interval '2.5 s' (or give SerialEM's .mdoc with --tilts)",
        )
    zero_s = (first - log.start).total_seconds()
    last_s = float(log.time_s[-1])
    if zero_s > last_s + _SAME_CLOCK_S or zero_s < -_SAME_CLOCK_S:
        raise BadInput(
            OPTION,
            f"{where}: the log is of {log.start:%Y-%m-%d %H:%M:%S} and {last_s:.0f} s long; the "
            f"first frame began at {first:%Y-%m-%d %H:%M:%S}, more than a day apart. Give the "
            "right log, or say with --started when the first frame began",
        )
    return zero_s, "the clock of the log"


def _clock_of(log: HeaterLog, zero_s: float) -> datetime | None:
    return None if log.start is None else _earlier(log.start, -zero_s)


def _earlier(moment: datetime, seconds: float) -> datetime:
    stamp = np.datetime64(moment, "us") - np.timedelta64(round(seconds * 1e6), "us")
    return stamp.astype(datetime)


def _of_frames(
    log_s: Floats, log_c: Floats, frame_s: Floats, first_s: float
) -> tuple[Floats, list[str]]:
    """Temperature of each frame, and what is in doubt."""
    steps_s = np.diff(log_s)
    gap_s = max(_LONGEST_GAP_S, _GAP_STEPS * float(np.median(steps_s)))
    if not np.isfinite(frame_s).any():
        at_first = _at(log_s, log_c, np.array([first_s]), gap_s)[0]
        later = log_c[log_s >= first_s]
        if math.isfinite(at_first) and (
            not later.size or np.abs(later - at_first).max() <= _STEADY_C
        ):
            return np.full(len(frame_s), at_first), []
        known = np.full(len(frame_s), np.nan)
        known[0] = at_first
        return known, [
            "the frames have no times and the temperature changes after the first, so that the "
            "temperature of single frames is not known; give --frame-interval '2.5 s'"
        ]
    temperature_c = _at(log_s, log_c, frame_s, gap_s)
    outside = int(np.isnan(temperature_c).sum())
    if outside:
        return temperature_c, [
            f"{outside} of {len(frame_s)} frames lie outside of the heater log, which covers "
            f"{log_s[0] - first_s:.6g} to {log_s[-1] - first_s:.6g} s from the first frame; their "
            "temperature is not known"
        ]
    return temperature_c, []


def _at(log_s: Floats, log_c: Floats, times_s: Floats, gap_s: float) -> Floats:
    """Temperature at some moments, between samples by a straight line."""
    found = np.interp(times_s, log_s, log_c)
    found[(times_s < log_s[0] - gap_s) | (times_s > log_s[-1] + gap_s)] = np.nan
    return found


@dataclass(frozen=True)
class _Plateau:
    """A time in which the temperature stayed as it was."""

    first: int
    last: int
    level_c: float


def find_holds(time_s: Floats, temperature_c: Floats) -> tuple[tuple[HoldPlan, ...], list[float]]:
    """Find the holds in a course of temperature: levels that are higher than those around them.

    Parameters
    ----------
    time_s, temperature_c : ndarray of shape (samples,)
        In order of time.

    Returns
    -------
    holds : tuple of HoldPlan
        In order; `standby_c` is the higher of the levels before and after, `requested_s` is NaN.
    ends_s : list of float
        When the temperature began to fall after each.

    Examples
    --------
    >>> time_s = np.array([0.0, 60.0, 61.0, 66.0, 67.0, 99.0])
    >>> holds, ends = find_holds(time_s, np.array([20.0, 20.0, 350.0, 350.0, 20.0, 20.0]))
    >>> holds[0].standby_c, holds[0].target_c, ends
    (20.0, 350.0, [66.0])
    """
    tolerance_c = max(_LEAST_TOLERANCE_C, _TOLERANCE_SHARE * float(np.ptp(temperature_c)))
    levels = _merged(_plateaus(time_s, temperature_c, tolerance_c), tolerance_c)
    holds: list[HoldPlan] = []
    ends_s: list[float] = []
    for before, at, after in zip(levels, levels[1:], levels[2:], strict=False):
        standby_c = max(before.level_c, after.level_c)
        if at.level_c - standby_c < max(_LEAST_HOLD_C, 2 * tolerance_c):
            continue
        holds.append(
            HoldPlan(
                index=len(holds) + 1, standby_c=standby_c, target_c=at.level_c,
                requested_s=math.nan,
            )
        )  # fmt: skip
        ends_s.append(float(time_s[at.last]))
    return tuple(holds), ends_s


def _plateaus(time_s: Floats, temperature_c: Floats, tolerance_c: float) -> list[_Plateau]:
    found: list[_Plateau] = []
    first, total = 0, float(temperature_c[0])
    for index in range(1, len(temperature_c) + 1):
        count = index - first
        ended = index == len(temperature_c)
        if not ended and abs(temperature_c[index] - total / count) <= tolerance_c:
            total += float(temperature_c[index])
            continue
        part = temperature_c[first:index]
        half = max(1, count // 2)
        # A ramp passes as well, but rises within what it passes.
        rise_c = abs(float(part[-half:].mean() - part[:half].mean()))
        if count > 1 and time_s[index - 1] > time_s[first] and rise_c <= tolerance_c / 2:
            found.append(_Plateau(first, index - 1, float(np.median(part))))
        if not ended:
            first, total = index, float(temperature_c[index])
    return found


def _merged(plateaus: Sequence[_Plateau], tolerance_c: float) -> list[_Plateau]:
    """Neighbours of one level are one; the longer tells the level."""
    merged: list[_Plateau] = []
    for plateau in plateaus:
        last = merged[-1] if merged else None
        if last is not None and abs(plateau.level_c - last.level_c) <= 2 * tolerance_c:
            longer = max(last, plateau, key=lambda p: p.last - p.first)
            merged[-1] = _Plateau(last.first, plateau.last, longer.level_c)
        else:
            merged.append(plateau)
    return merged
