"""``pyrotome spectra``: components, drift, front and diffusion in a ramp of spectrum frames."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from ...protocols.core.errors import BadInput
from ...protocols.spectra.tofdaq import TofDaqFile
from ..io.heater_logs import read_heater_log
from ..io.safe_output import new_file
from ..report.spectra import (
    RampResult,
    diffusion_lines,
    plot_ramp,
    write_front_table,
    write_ramp_nexus,
)
from ..spectra import (
    DiffusionFit,
    EventFrame,
    FrameTime,
    RampAnalysis,
    RampFrame,
    RampSettings,
    frame_of_counts,
    frame_of_events,
)
from .import_ import quantity_of
from .interrupts import notify

LAWS = ("fick", "fick-free-source", "paper")
# Maps that are kept in the file.
_MAPS = 60
_TOLD_DOUBTS = 5


@dataclass(frozen=True)
class RampRequest:
    """What the user asks for; temperatures in degC, times in seconds."""

    source: Path
    elements: tuple[str, ...]
    stay: tuple[str, ...]
    front: str
    from_c: float
    to_c: float
    boxes: int
    pixel_um: float | None
    frame_s: float | None
    start_c: float | None
    rate_k_per_s: float | None
    heater_log: Path | None


def request_of(
    source: Path,
    elements: str,
    stay: str,
    front: str,
    follow: tuple[str, str],
    boxes: int,
    pixel_size: str | None,
    frame_time: str | None,
    start: str | None,
    rate: str | None,
    heater_log: Path | None,
) -> RampRequest:
    """Read the options of the command; BadInput names the one that cannot be read."""

    def value(option: str, written: str | None, unit: str, example: str) -> float | None:
        return None if written is None else quantity_of(option, written, unit, example)

    first, last = (quantity_of("--follow", text, "degC", "260 degC") for text in follow)
    if not first < last:
        raise BadInput("--follow", f"{follow[0]} is not below {follow[1]}")
    pixel_um = value("--pixel-size", pixel_size, "um", "55 nm")
    frame_s = value("--frame-time", frame_time, "s", "1.4 s")
    for option, number in (("--pixel-size", pixel_um), ("--frame-time", frame_s)):
        if number is not None and number <= 0:
            raise BadInput(option, "is not larger than 0")
    if boxes < 1:
        raise BadInput("--boxes", f"{boxes} is less than 1")
    if heater_log is None and (start is None or rate is None):
        raise BadInput(
            "--heater-log", "say how hot each frame was: --heater-log, or --start with --rate"
        )
    if heater_log is not None and (start is not None or rate is not None):
        raise BadInput("--heater-log", "excludes --start and --rate")
    return RampRequest(
        source, _names(elements), _names(stay), front, first, last, boxes, pixel_um, frame_s,
        value("--start", start, "degC", "50 degC"),
        value("--rate", rate, "delta_degC/s", "1 degC/s"), heater_log,
    )  # fmt: skip


def _names(written: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in written.split(",") if name.strip())


def spectra_command(
    request: RampRequest,
    target: Path,
    table: Path | None,
    figure: Path | None,
    laws: tuple[str, ...],
) -> int:
    """Carry out ``pyrotome spectra``; returns the exit code: 1 where no law could be fitted."""
    for option, path, ending in (
        ("-o", target, ".nxs"), ("--table", table, ".csv"), ("--figure", figure, ".png")
    ):  # fmt: skip
        if path is not None and path.suffix.lower() != ending:
            raise BadInput(option, f"{path}: name a file that ends in {ending}")
    unknown = [law for law in laws if law not in LAWS]
    if unknown:
        raise BadInput("--law", f"'{unknown[0]}' is unknown; known: {', '.join(LAWS)}")
    with ExitStack() as files:
        source = files.enter_context(TofDaqFile(request.source))
        settings = settings_of(request, source)
        times = frame_times(request, source)
        nexus = files.enter_context(new_file(target))
        csv = None if table is None else files.enter_context(new_file(table))
        png = None if figure is None else files.enter_context(new_file(figure))
        result = analysed(request, source, settings, times, laws)
        write_ramp_nexus(nexus, result)
        if csv is not None:
            write_front_table(csv, result)
        if png is not None:
            plot_ramp(png, result)
    for doubt in result.doubts:
        notify(f"{request.source}: {doubt}")
    for line in diffusion_lines(result.fits, request.front):
        print(line)
    print(
        f"{target}: {len(result.temperature_c)} frames, front of {request.front} followed in "
        f"{len(result.front_c)} of them"
    )
    return 0 if result.fits and all(fit.converged for fit in result.fits) else 1


def settings_of(request: RampRequest, source: TofDaqFile) -> RampSettings:
    """Settings of the analysis; BadInput where the file does not tell what is needed."""
    pixel_um = request.pixel_um or source.pixel_um
    if pixel_um is None:
        raise BadInput(
            str(request.source), "does not tell the size of a pixel; give --pixel-size '55 nm'"
        )
    try:
        return RampSettings(
            request.elements, request.stay, request.front, request.from_c, request.to_c, pixel_um,
            request.boxes,
        )  # fmt: skip
    except ValueError as error:
        raise BadInput("--elements", str(error)) from None


def frame_times(request: RampRequest, source: TofDaqFile) -> list[FrameTime]:
    """When each frame was scanned, and how hot the specimen was.

    Raises
    ------
    BadInput
        If neither file nor user tells it, or the heater log does not cover the frames.
    """
    starts = source.start_s
    if request.frame_s is not None:
        starts = np.arange(source.frames) * request.frame_s
    if starts is None or len(starts) < 2:
        raise BadInput(
            str(request.source), "its times do not ascend; give --frame-time such as '1.4 s'"
        )
    ends = np.append(starts[1:], 2 * starts[-1] - starts[-2])
    if request.heater_log is None:
        assert request.start_c is not None and request.rate_k_per_s is not None
        hot = [request.start_c + request.rate_k_per_s * moment for moment in (starts, ends)]
    else:
        log = read_heater_log(request.heater_log)
        if log.time_s[0] > starts[0] + 1.0 or log.time_s[-1] < starts[-1] - 1.0:
            raise BadInput(
                str(request.heater_log),
                f"covers {log.time_s[0]:.1f} to {log.time_s[-1]:.1f} s, the frames lie at "
                f"{starts[0]:.1f} to {starts[-1]:.1f} s; its time must begin with the first frame",
            )
        hot = [np.interp(moment, log.time_s, log.temperature_c) for moment in (starts, ends)]
    return [
        FrameTime(float(a), float(b), float(c), float(d))
        for a, b, c, d in zip(starts, ends, hot[0], hot[1], strict=True)
    ]


def frame_of(source: TofDaqFile, index: int) -> EventFrame:
    """A frame of the file; BadInput if its values are no counts."""
    try:
        if source.processed:
            return frame_of_counts(source.counts(index))
        return frame_of_events(*source.events(index), len(source.peaks.mass))
    except ValueError as error:
        raise BadInput(f"write {index}", str(error)) from None


def analysed(
    request: RampRequest,
    source: TofDaqFile,
    settings: RampSettings,
    times: list[FrameTime],
    laws: tuple[str, ...],
) -> RampResult:
    """Go through all frames, and fit the laws."""
    try:
        ramp = RampAnalysis(settings, source.peaks.mass)
    except ValueError as error:
        raise BadInput("--elements", str(error)) from None
    kept = np.unique(np.linspace(0, source.frames - 1, _MAPS).round().astype(int))
    maps: list[NDArray[np.float32]] = []
    frames: list[RampFrame] = []
    doubts: list[str] = []
    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("frames", total=source.frames)
        for index in range(source.frames):
            found = ramp.feed(frame_of(source, index), times[index])
            doubts += [f"frame {index}: {doubt}" for doubt in found.doubts]
            frames.append(found)
            if index in kept:
                maps.append(found.components.maps.copy())
            bars.update(bar, completed=index + 1)
    told = doubts[:_TOLD_DOUBTS]
    if len(doubts) > _TOLD_DOUBTS:
        told.append(f"{len(doubts) - _TOLD_DOUBTS} further frames with doubts")
    fits, told = _fitted(ramp, laws, told)
    length = np.zeros((0, settings.boxes))
    front_c, length_um, length_sd = np.zeros(0), length, length
    if ramp.followed:
        front_c, length_um, length_sd = ramp.fronts()
    return RampResult(
        source=request.source.name,
        names=ramp.names,
        front=settings.front,
        mass=source.peaks.mass,
        spectra=frames[-1].components.spectra,
        maps=np.stack(maps),
        map_frames=kept.astype(np.int64),
        temperature_c=np.array([one.time.at(0.5)[1] for one in frames]),
        drift_px=np.array([one.drift.shift_px for one in frames]),
        drift_sd_px=np.array([one.drift.sd_px for one in frames]),
        pixel_um=settings.pixel_um,
        front_frames=np.array(ramp.followed_frames, np.int64),
        front_c=front_c,
        length_um=length_um,
        length_sd_um=length_sd,
        fits=fits,
        doubts=tuple(told),
    )


def _fitted(
    ramp: RampAnalysis, laws: tuple[str, ...], doubts: list[str]
) -> tuple[tuple[DiffusionFit, ...], list[str]]:
    fits: list[DiffusionFit] = []
    for law in laws:
        try:
            fit = ramp.fit(law)  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            return (), [*doubts, f"no diffusion coefficient: {error}"]
        fits.append(fit)
        doubts += [f"law {law}: {doubt}" for doubt in fit.doubts]
    return tuple(fits), doubts
