"""The run file: the name, shape and meaning of everything in it, before anything is written.

`tree` turns a manifest into groups, datasets and links, which any HDF5 library can write. Readers
find them by the names here. Times in the file are seconds since
``@start`` (UTC, with ``@start_ns`` as exact nanoseconds); what is not yet written is NaN, -1 or,
in ``image_key``, 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..config.pipeline import CORRECTION, ResultPlan
from ..core.clock import iso_utc
from ..messages.manifest import RunManifest, StackPlan
from .tree.nodes import DOSE_UNIT, Dataset, Group, Link, Node, epoch_ns

ENTRY = "/entry"
TELEMETRY = f"{ENTRY}/telemetry"
EVENTS = f"{ENTRY}/events"
DOSE = f"{ENTRY}/dose"
CLOCK = f"{ENTRY}/clock"
HOLDS = f"{ENTRY}/holds"
INTERRUPTIONS = f"{ENTRY}/interruptions"  # only where the run was resumed
RUN = f"{ENTRY}/run"
STATUS = f"{RUN}/status"
REASON = f"{RUN}/reason"
DOSE_TOTAL = f"{RUN}/dose"
MANIFEST = f"{RUN}/manifest"
RECIPE_TEXT = f"{RUN}/recipe/data"
SOURCE = f"{RUN}/source"  # where imported frames came from
END_TIME = f"{ENTRY}/end_time"

Status = Literal["running", "complete", "aborted", "failed", "interrupted"]
STATUS_BYTES = 16
REASON_BYTES = 1024
DATE_BYTES = 32
# image_key of NXtomo: a projection, a frame without beam, and a frame that is not there.
RECORDED, DARK, MISSING = 0, 2, 3
TILT_AXIS = "tilt_axis_deg"  # attribute of the group of a series

HEATER = "heater"
TEMPERATURE_CHANNELS = ("temperature_c", "temperature")


@dataclass(frozen=True)
class Column:
    """One value per frame: its place below the stack, and the key of the frame's header."""

    path: str
    key: str
    dtype: str
    units: str = ""

    @property
    def fill(self) -> float | int:
        """What stands where nothing was written."""
        return float("nan") if self.dtype.startswith("float") else -1

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit("/", 1)[-1]


IMAGE_KEY = "instrument/detector/image_key"
TIME_COLUMN = Column("frames/time", "t_ns", "float64", "s")
COLUMNS = (
    TIME_COLUMN,
    Column("sample/rotation_angle", "tilt_deg", "float64", "degree"),
    Column("sample/temperature", "temperature_c", "float64", "degC"),
    Column("instrument/detector/count_time", "exposure_s", "float64", "s"),
    Column("frames/nominal_tilt", "nominal_tilt_deg", "float64", "degree"),
    Column("frames/dose", "dose_e_per_nm2", "float64", DOSE_UNIT),
    Column("frames/dose_total", "dose_total_e_per_nm2", "float64", DOSE_UNIT),
    Column("frames/frame_number", "frame_number", "int64"),
    Column("frames/sequence", "seq", "int64"),
)
HOLD_BEGINS = ("commanded_up_ns", "crossed_up_ns")
HOLD_TIMES = (*HOLD_BEGINS, "commanded_down_ns", "crossed_down_ns")
CLOCK_COLUMNS = ("monotonic_ns", "utc_ns", "uncertainty_ns")
EVENT_TEXT = {"level": 16, "source": 48, "message": 400, "json": 1024}  # bytes of UTF-8


def frames_path(stack: str) -> str:
    """Frames of a stack, (frames, rows, columns)."""
    return f"/{stack}/instrument/detector/data"


def image_key_path(stack: str) -> str:
    """Which frames of a stack are there: `key_of_recorded` or `MISSING`."""
    return f"/{stack}/{IMAGE_KEY}"


def key_of_recorded(stack: str) -> int:
    """Image key of the frames of a stack that are there."""
    return DARK if stack.startswith("dark_") else RECORDED


def value_offset_path(stack: str) -> str:
    """What was added to every value before it was recorded."""
    return f"/{stack}/instrument/detector/encoding/value_offset"


def saturation_path(stack: str) -> str:
    """Highest value of a pixel that was measured; absent where the detector marks none."""
    return f"/{stack}/instrument/detector/saturation_value"


def value_scale_path(stack: str) -> str:
    """Size of one recorded step, 1 where absent: value = (recorded - offset) * scale."""
    return f"/{stack}/instrument/detector/encoding/value_scale"


def holds_before_path(stack: str) -> str:
    """How many holds came before a stack; absent where that is not known."""
    return f"/{stack}/frames/holds_before"


def column_path(stack: str, key: str) -> str:
    """Where a stack holds one key of its frame headers."""
    return f"/{stack}/" + next(c.path for c in COLUMNS if c.key == key)


def telemetry_path(device: str, channel: str) -> str:
    """NXlog group of one channel, with ``time`` and ``value``."""
    return f"{TELEMETRY}/{device}/{channel}"


def process_path(stack: str, process: int) -> str:
    """NXprocess group of one step of the pipeline."""
    return f"/{stack}/process_{process:03d}"


def result_path(stack: str, result: ResultPlan) -> str:
    """NXdata group of one result; its array is the dataset ``data`` in it."""
    return f"{process_path(stack, result.process)}/{result.name}"


def fit_text(text: str, size: int) -> bytes:
    """Text as UTF-8 in at most `size` bytes; what is cut off leaves an ellipsis."""
    raw = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")
    if len(raw) <= size:
        return raw
    mark = "…".encode()
    return raw[: size - len(mark)].decode("utf-8", "ignore").encode() + mark


def tree(manifest: RunManifest) -> Iterator[Node]:
    """Everything in the file of a run, groups before what they hold, links after their targets."""
    yield from _root(manifest)
    yield from _entry(manifest)
    yield from _logs(manifest)
    for stack in manifest.stacks:
        yield from _stack(manifest, stack)


def _time_attrs(manifest: RunManifest) -> dict[str, Any]:
    start = epoch_ns(manifest.started_ns)
    return {"units": "s", "start": iso_utc(start), "start_ns": np.int64(start)}


def _root(manifest: RunManifest) -> Iterator[Node]:
    first = next((s for s in manifest.stacks if s.kind == "series"), None)
    default = first or next(iter(manifest.stacks), None)
    yield Group(
        "/",
        "NXroot",
        {
            "default": default.name if default is not None else "entry",
            "file_time": iso_utc(manifest.started_ns),
            "creator": manifest.software,
        },
    )


def _entry(manifest: RunManifest) -> Iterator[Node]:
    started = iso_utc(manifest.started_ns)
    program, _, version = manifest.software.partition(" ")
    yield Group(ENTRY, "NXentry")
    yield Dataset(f"{ENTRY}/definition", "NXem")
    yield Dataset(f"{ENTRY}/title", manifest.title)
    yield Dataset(f"{ENTRY}/start_time", started)
    yield Dataset(END_TIME, dtype=f"S{DATE_BYTES}", fill="")
    yield Dataset(f"{ENTRY}/program_name", program, attrs={"version": version})
    yield Group(f"{ENTRY}/sampleID", "NXsample")
    yield Dataset(f"{ENTRY}/sampleID/name", manifest.sample.name)
    yield Dataset(f"{ENTRY}/sampleID/is_simulation", np.bool_(manifest.simulated))
    # NXem demands a date of preparation, which a recipe does not tell.
    yield Dataset(
        f"{ENTRY}/sampleID/preparation_date",
        started,
        attrs={"comment": "not known; the start of the run stands here"},
    )
    yield Dataset(f"{ENTRY}/sampleID/atom_types", ", ".join(manifest.sample.elements))
    yield from _instrument(f"{ENTRY}/instrument", manifest)

    yield Group(RUN, "NXcollection")
    yield Dataset(STATUS, dtype=f"S{STATUS_BYTES}", fill="running")
    yield Dataset(REASON, dtype=f"S{REASON_BYTES}", fill="")
    yield Dataset(DOSE_TOTAL, dtype="float64", fill=np.nan, attrs={"units": DOSE_UNIT})
    yield Dataset(f"{RUN}/identifier", manifest.run)
    yield Dataset(f"{RUN}/software", manifest.software)
    yield Dataset(f"{RUN}/speed", np.float64(manifest.speed))
    yield Dataset(MANIFEST, manifest.model_dump_json(by_alias=True))
    for name, text in (("recipe", manifest.recipe_text), ("rig", manifest.rig_text)):
        note = f"{RUN}/{name}"
        yield Group(note, "NXnote")
        yield Dataset(f"{note}/type", "application/yaml")
        yield Dataset(f"{note}/file_name", f"{name}.yaml")
        yield Dataset(f"{note}/data", text)
    yield from processes(manifest.software, manifest.whole_run)


def _instrument(path: str, manifest: RunManifest) -> Iterator[Node]:
    beam = manifest.beam
    yield Group(path, "NXinstrument")
    yield Dataset(f"{path}/name", manifest.rig_name)
    yield Group(f"{path}/source", "NXsource")
    yield Dataset(f"{path}/source/probe", "electron")
    yield Dataset(f"{path}/source/voltage", beam.voltage_kv, attrs={"units": "kV"})
    yield Dataset(f"{path}/source/current", beam.current_pa, attrs={"units": "pA"})
    yield Group(f"{path}/scan", "NXcollection")
    yield Dataset(f"{path}/scan/dwell_time", beam.dwell_s, attrs={"units": "s"})
    yield Dataset(f"{path}/scan/pixel_size", beam.pixel_nm, attrs={"units": "nm"})
    yield Dataset(f"{path}/scan/shape", np.array(beam.frame, np.int64))
    yield Group(f"{path}/devices", "NXcollection")
    for role, identity in manifest.instruments.items():
        yield Dataset(f"{path}/devices/{role}", identity)


def _logs(manifest: RunManifest) -> Iterator[Node]:
    time_attrs = _time_attrs(manifest)
    log_attrs = {"signal": "value", "axes": "time"}

    def growing(path: str, dtype: str, attrs: Mapping[str, Any] | None = None) -> Dataset:
        return Dataset(path, dtype=dtype, shape=(0,), storage="growing", attrs=attrs or {})

    yield Group(TELEMETRY, "NXcollection")
    for device, channels in manifest.telemetry.items():
        yield Group(f"{TELEMETRY}/{device}", "NXcollection")
        first = ""
        for channel, unit in channels.items():
            log = telemetry_path(device, channel)
            yield Group(log, "NXlog", log_attrs)
            if first:
                yield Link(f"{log}/time", first)
            else:
                first = f"{log}/time"
                yield growing(first, "float64", time_attrs)
            yield growing(f"{log}/value", "float64", {"units": unit} if unit else {})

    yield Group(DOSE, "NXlog", log_attrs)
    yield growing(f"{DOSE}/time", "float64", time_attrs)
    yield growing(f"{DOSE}/value", "float64", {"units": DOSE_UNIT})
    yield Dataset(f"{DOSE}/description", "electrons per area since the run began, after each frame")

    yield from events(time_attrs)

    yield Group(CLOCK, "NXcollection")
    for name in CLOCK_COLUMNS:
        yield growing(f"{CLOCK}/{name}", "int64", {"units": "ns"})

    holds = manifest.holds
    yield Group(HOLDS, "NXcollection")
    if not holds:
        return
    yield Dataset(f"{HOLDS}/index", np.array([h.index for h in holds], np.int64))
    for name, unit in (("standby_c", "degC"), ("target_c", "degC"), ("requested_s", "s")):
        values = np.array([getattr(h, name) for h in holds], np.float64)
        if name == "requested_s":  # known once it is chosen
            values[[h.index in manifest.adaptive_holds for h in holds]] = np.nan
        yield Dataset(f"{HOLDS}/{name}", values, attrs={"units": unit})
    for name in HOLD_TIMES:
        yield Dataset(f"{HOLDS}/{name}", np.full(len(holds), -1, np.int64), attrs={"units": "ns"})


def events(time_attrs: Mapping[str, Any]) -> Iterator[Node]:
    """The events of a run, without rows; `time_attrs` tell when time is zero."""
    yield Group(EVENTS, "NXcollection")
    yield Dataset(
        f"{EVENTS}/time", dtype="float64", shape=(0,), storage="growing", attrs=time_attrs
    )
    for name, size in EVENT_TEXT.items():
        yield Dataset(f"{EVENTS}/{name}", dtype=f"S{size}", shape=(0,), storage="growing")


def interruptions() -> Iterator[Node]:
    """The table of the times in which the experiment was not controlled, without rows."""
    yield Group(INTERRUPTIONS, "NXcollection")
    for name in ("from_ns", "until_ns"):
        yield Dataset(
            f"{INTERRUPTIONS}/{name}", dtype="int64", shape=(0,), storage="growing",
            attrs={"units": "ns"},
        )  # fmt: skip
    hot = f"{INTERRUPTIONS}/hot_s"
    yield Dataset(hot, dtype="float64", shape=(0,), storage="growing", attrs={"units": "s"})
    reason = f"{INTERRUPTIONS}/reason"
    yield Dataset(reason, dtype=f"S{REASON_BYTES}", shape=(0,), storage="growing")


def _stack(manifest: RunManifest, stack: StackPlan) -> Iterator[Node]:
    base = f"/{stack.name}"
    detector = f"{base}/instrument/detector"
    rows, columns = manifest.beam.frame
    pixel = manifest.beam.pixel_nm
    axis = {} if stack.tilt_axis_deg is None else {TILT_AXIS: stack.tilt_axis_deg}
    yield Group(base, "NXentry", {"default": "data"} | axis)
    if stack.kind == "series":
        yield Dataset(f"{base}/definition", "NXtomo")
    yield Dataset(f"{base}/title", f"{manifest.title}: {stack.name}")
    yield Group(f"{base}/instrument", "NXinstrument")
    yield Dataset(f"{base}/instrument/name", manifest.rig_name)
    yield Group(f"{base}/instrument/source", "NXsource")
    yield Dataset(f"{base}/instrument/source/probe", "electron")
    yield Group(detector, "NXdetector")
    yield Dataset(f"{detector}/local_name", manifest.detector)
    if manifest.marked_value is not None:
        # NeXus: values up to this one are valid.
        yield Dataset(saturation_path(stack.name), np.int64(manifest.marked_value - 1))
    yield Dataset(
        frames_path(stack.name),
        dtype=manifest.frame_dtype,
        shape=(stack.frames, rows, columns),
        fill=0,
        storage="frames",
    )
    image_keys = np.full(stack.frames, MISSING, np.int32)
    yield Dataset(image_key_path(stack.name), image_keys)
    for axis in "xy":
        yield Dataset(f"{detector}/{axis}_pixel_size", pixel, attrs={"units": "nm"})
    yield Group(f"{detector}/encoding", "NXcollection")
    yield Dataset(value_offset_path(stack.name), np.int64(manifest.value_offset))
    yield Group(f"{base}/sample", "NXsample")
    yield Dataset(f"{base}/sample/name", manifest.sample.name)
    yield Group(f"{base}/frames", "NXcollection")
    before = np.int64(manifest.holds_before.get(stack.name, 0))
    yield Dataset(holds_before_path(stack.name), before)
    for column in COLUMNS:
        attrs: dict[str, Any] = {"units": column.units} if column.units else {}
        if column is TIME_COLUMN:
            attrs = _time_attrs(manifest)
        values = np.full(stack.frames, column.fill, column.dtype)
        if column.key == "nominal_tilt_deg" and len(stack.tilt_deg) == stack.frames:
            values = np.array(stack.tilt_deg, np.float64)
        yield Dataset(f"{base}/{column.path}", values, attrs=attrs)

    data = f"{base}/data"
    along = _frame_axis(stack)
    yield Group(data, "NXdata", {"signal": "data", "axes": [along.name, "y", "x"]})
    yield Link(f"{data}/data", frames_path(stack.name))
    yield Link(f"{data}/image_key", image_key_path(stack.name))
    yield Link(f"{data}/{along.name}", f"{base}/{along.path}")
    yield _length_axis(f"{data}/y", rows, pixel)
    yield _length_axis(f"{data}/x", columns, pixel)
    if manifest.value_offset:
        yield Dataset(f"{data}/data_offset", np.float64(-manifest.value_offset))
    yield from processes(manifest.software, stack)


def processes(software: str, stack: StackPlan) -> Iterator[Node]:
    """Groups of the results of a stack: one NXprocess for each step of the pipeline.

    Parameters
    ----------
    software : str
        Program and version, separated by a space.
    stack : StackPlan
        Its `results` are what will be there.
    """
    program, _, version = software.partition(" ")
    seen: set[int] = set()
    for result in stack.results:
        process = process_path(stack.name, result.process)
        if result.process not in seen:
            seen.add(result.process)
            yield Group(process, "NXprocess", {"default": result.name})
            yield Dataset(f"{process}/program", f"{program} {result.step}")
            yield Dataset(f"{process}/version", version or "unknown")
            sequence = 0 if result.step == CORRECTION else result.process  # whatever its number is
            yield Dataset(f"{process}/sequence_index", np.int64(sequence))
            yield Dataset(f"{process}/date", dtype=f"S{DATE_BYTES}", fill="")
            yield Group(f"{process}/parameters", "NXparameters")
            for name, value in result.parameters.items():
                yield Dataset(f"{process}/parameters/{name}", value)
        yield from _result(stack, result)


def _result(stack: StackPlan, result: ResultPlan) -> Iterator[Node]:
    path = result_path(stack.name, result)
    along = _frame_axis(stack)
    names = {"frame": along.name, "frame_y": "y", "frame_x": "x"}
    axes = [names.get(name, name) for name in result.axes]
    yield Group(path, "NXdata", {"signal": "data"} | ({"axes": axes} if axes else {}))
    floating = np.issubdtype(np.dtype(result.dtype), np.floating)
    attrs: dict[str, Any] = {"units": result.unit} if result.unit else {}
    if result.columns:
        attrs["columns"] = list(result.columns)
    yield Dataset(
        f"{path}/data",
        dtype=result.dtype,
        shape=result.shape,
        fill=np.nan if floating else 0,
        storage="frames" if result.shape else "plain",
        attrs=attrs,
    )
    for name, size in zip(result.axes, result.shape, strict=True):
        if name == "frame":
            yield Link(f"{path}/{along.name}", f"/{stack.name}/{along.path}")
        elif names.get(name, name) in {"x", "y", "z"}:
            yield _length_axis(f"{path}/{names.get(name, name)}", size, result.pixel_nm)
        else:
            yield Dataset(f"{path}/{name}", np.arange(size))


def _frame_axis(stack: StackPlan) -> Column:
    key = {"series": "tilt_deg", "ramp": "temperature_c"}.get(stack.kind, "t_ns")
    return next(column for column in COLUMNS if column.key == key)


def _length_axis(path: str, size: int, pixel_nm: float) -> Dataset:
    return Dataset(path, np.arange(size) * pixel_nm, attrs={"units": "nm"})


def temperature_channel(channels: Mapping[str, str]) -> str | None:
    """Name of the channel of a heater that is its temperature.

    Parameters
    ----------
    channels : mapping
        Channel to unit.

    Returns
    -------
    str or None
        By name, else the first in deg C.
    """
    named: Sequence[str] = [name for name in TEMPERATURE_CHANNELS if name in channels]
    celsius = [name for name, unit in channels.items() if unit in {"degC", "°C", "celsius"}]
    return next(iter([*named, *celsius]), None)
