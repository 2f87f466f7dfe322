"""The configuration of a simulated DECTRIS detector, kept consistent as the instrument keeps it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ...protocols.wires import simplon as wire
from ...protocols.wires.simplon import Parameter

READOUT_S = 1e-7
MIN_FRAME_TIME_S = 1 / 18_000  # ms-range exposures of every real model fit
MAX_TIME_S = 3600.0
MAX_PIXELS = 4096
_PIXEL_SIZE_M = 75e-6
_TYPES: dict[str, type[Any]] = {"uint": int, "float": float, "bool": bool, "string": str}


class Unsettable(ValueError):
    """A value that a parameter does not take."""


def _whole(value: int, low: int, high: int) -> Parameter:
    return Parameter(value, "uint", "rw", min=low, max=high)


def _seconds(value: float, low: float) -> Parameter:
    return Parameter(value, "float", "rw", unit="s", min=low, max=MAX_TIME_S)


def _choice(value: str, *others: str) -> Parameter:
    return Parameter(value, "string", "rw", allowed_values=(value, *others))


def _flag(value: bool) -> Parameter:
    return Parameter(value, "bool", "rw")


def _fixed(value: Any, kind: str, unit: str | None = None) -> Parameter:
    return Parameter(value, kind, "r", unit)


def _real(value: float, unit: str | None = None) -> Parameter:
    return Parameter(value, "float", "rw", unit)


def _detector() -> dict[str, Parameter]:
    return {
        wire.COUNT_TIME: _seconds(0.01, READOUT_S),
        wire.FRAME_TIME: _seconds(0.01 + READOUT_S, MIN_FRAME_TIME_S),
        wire.NIMAGES: _whole(1, 1, 2_000_000_000),
        wire.NTRIGGER: _whole(1, 1, 2_000_000_000),
        wire.TRIGGER_MODE: _choice("exts", "ints", "exte"),
        wire.COMPRESSION: _choice("bslz4", "lz4", "none"),
        wire.X_PIXELS: _whole(512, 1, MAX_PIXELS),
        wire.Y_PIXELS: _whole(512, 1, MAX_PIXELS),
        wire.BIT_DEPTH_IMAGE: _fixed(16, "uint"),
        "bit_depth_readout": _fixed(16, "uint"),
        wire.DESCRIPTION: _fixed("pyrotome simulated SIMPLON detector", "string"),
        wire.DETECTOR_NUMBER: _fixed("S-00-0001", "string"),
        wire.SOFTWARE_VERSION: _fixed("1.8.0", "string"),
        "eiger_fw_version": _fixed("simulated", "string"),
        "data_collection_date": _fixed("1970-01-01T00:00:00.000Z", "string"),
        "detector_readout_time": _fixed(READOUT_S, "float", "s"),
        "frame_count_time": _fixed(0.01, "float", "s"),
        "frame_period": _fixed(0.01 + READOUT_S, "float", "s"),
        "countrate_correction_count_cutoff": _fixed(65_535, "uint"),
        "number_of_excluded_pixels": _fixed(0, "uint"),
        "sensor_material": _fixed("Si", "string"),
        "sensor_thickness": _fixed(0.00045, "float", "m"),
        "x_pixel_size": _fixed(_PIXEL_SIZE_M, "float", "m"),
        "y_pixel_size": _fixed(_PIXEL_SIZE_M, "float", "m"),
        "auto_summation": _flag(True),
        "countrate_correction_applied": _flag(False),
        "flatfield_correction_applied": _flag(False),
        wire.PIXEL_MASK_APPLIED: _flag(False),
        "beam_center_x": _real(0.0),
        "beam_center_y": _real(0.0),
        "chi_increment": _real(0.0, "degree"),
        "chi_start": _real(0.0, "degree"),
        "kappa_increment": _real(0.0, "degree"),
        "kappa_start": _real(0.0, "degree"),
        "detector_distance": _real(0.0, "m"),
        "detector_translation": _fixed([0.0, 0.0, 0.0], "float", "m"),
        "element": _choice(""),
        "roi_mode": _choice("disabled"),
        "threshold_energy": _real(4020.5, "eV"),
        "incident_energy": _real(300_000.0, "eV"),
        "wavelength": _real(1.97e-2, "angstrom"),
    }


def _stream() -> dict[str, Parameter]:
    return {
        wire.STREAM_MODE: _choice("disabled", "enabled"),
        wire.STREAM_FORMAT: _choice("legacy", "cbor"),
        wire.HEADER_DETAIL: _choice("basic", "none"),
        wire.HEADER_APPENDIX: Parameter("", "string", "rw"),
        wire.IMAGE_APPENDIX: Parameter("", "string", "rw"),
    }


@dataclass(frozen=True)
class SeriesSettings:
    """What the configuration makes of a series of frames.

    Attributes
    ----------
    count_time_s, frame_time_s : float
        Exposure of a frame, and from the start of one frame to the start of the next.
    shape : tuple of int
        (rows, columns).
    bit_depth : int
        Of a pixel as it travels.
    compression : str
        Of a frame as it travels.
    external : bool
        Whether a signal triggers.
    images_per_trigger, frames : int
        Frames that one trigger starts, and frames in all.
    mask_applied : bool
        Whether bad pixels get the highest number.
    streaming, cbor : bool
        Whether the stream is on, and whether it has the newer format.
    header_detail : str
        ``basic`` or ``none``.
    header_appendix, image_appendix : bytes or None
        What the user wants to travel with the start of the series and with each image.
    """

    count_time_s: float
    frame_time_s: float
    shape: tuple[int, int]
    bit_depth: int
    compression: str
    external: bool
    images_per_trigger: int
    frames: int
    mask_applied: bool
    streaming: bool
    cbor: bool
    header_detail: str
    header_appendix: bytes | None
    image_appendix: bytes | None


class Configuration:
    """Parameters of all modules.

    Parameters
    ----------
    only_shape : tuple of int or None
        (rows, columns) that cannot be changed.
    """

    def __init__(self, only_shape: tuple[int, int] | None = None) -> None:
        self._modules: dict[str, dict[str, Parameter]] = {
            "detector": _detector(),
            "stream": _stream(),
            "filewriter": {"mode": _choice("disabled", "enabled")},
            "monitor": {"mode": _choice("disabled", "enabled")},
        }
        if only_shape is not None:
            for name, pixels in zip((wire.Y_PIXELS, wire.X_PIXELS), only_shape, strict=True):
                self._modules["detector"][name] = _fixed(pixels, "uint")

    def names(self, module: str) -> list[str]:
        """Of the parameters of a module; none of one that has none."""
        return list(self._modules.get(module, ()))

    def get(self, module: str, name: str) -> Parameter:
        """A parameter; KeyError if there is none."""
        return self._modules[module][name]

    def put(self, module: str, name: str, value: Any) -> list[str]:
        """Set a parameter.

        Returns
        -------
        list of str
            Those that changed.

        Raises
        ------
        KeyError
            If there is none of that name.
        Unsettable
            If it does not take the value.
        """
        parameter = self.get(module, name)
        value = _checked(name, parameter, value)
        before = {known: found.value for known, found in self._modules[module].items()}
        self._set(module, name, value)
        if module == "detector":
            self._keep_consistent(name)
        changed = [k for k, found in self._modules[module].items() if found.value != before[k]]
        return sorted({*changed, name})

    def set_bit_depth(self, bits: int) -> None:
        """Make it a detector of 8, 16 or 32 bits."""
        for name in (wire.BIT_DEPTH_IMAGE, "bit_depth_readout"):
            self._set("detector", name, bits)
        self._set("detector", "countrate_correction_count_cutoff", 2**bits - 1)

    def _set(self, module: str, name: str, value: Any) -> None:
        values = self._modules[module]
        values[name] = replace(values[name], value=value)

    def _keep_consistent(self, name: str) -> None:
        """A frame lasts for its counting and its readout at least; the newer wish prevails."""
        count_s, frame_s = self._value(wire.COUNT_TIME), self._value(wire.FRAME_TIME)
        if name == wire.FRAME_TIME:
            count_s = min(count_s, frame_s - READOUT_S)
        else:
            frame_s = max(frame_s, count_s + READOUT_S, MIN_FRAME_TIME_S)
        for known, value in (
            (wire.COUNT_TIME, count_s),
            ("frame_count_time", count_s),
            (wire.FRAME_TIME, frame_s),
            ("frame_period", frame_s),
        ):
            self._set("detector", known, value)

    def _value(self, name: str, module: str = "detector") -> Any:
        return self._modules[module][name].value

    def series(self) -> SeriesSettings:
        """What a series would be now."""
        value = self._value
        mode, images = value(wire.TRIGGER_MODE), value(wire.NIMAGES)
        images_per_trigger = 1 if mode == "exte" else images
        return SeriesSettings(
            count_time_s=value(wire.COUNT_TIME),
            frame_time_s=value(wire.FRAME_TIME),
            shape=(value(wire.Y_PIXELS), value(wire.X_PIXELS)),
            bit_depth=value(wire.BIT_DEPTH_IMAGE),
            compression=value(wire.COMPRESSION),
            external=mode in {"exts", "exte"},
            images_per_trigger=images_per_trigger,
            frames=images_per_trigger * value(wire.NTRIGGER),
            mask_applied=value(wire.PIXEL_MASK_APPLIED),
            streaming=value(wire.STREAM_MODE, "stream") == "enabled",
            cbor=value(wire.STREAM_FORMAT, "stream") == "cbor",
            header_detail=value(wire.HEADER_DETAIL, "stream"),
            header_appendix=value(wire.HEADER_APPENDIX, "stream").encode() or None,
            image_appendix=value(wire.IMAGE_APPENDIX, "stream").encode() or None,
        )

    def described_v1(self) -> dict[str, Any]:
        """What the start of a series in the older format tells."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f%z}"
        values = {name: found.value for name, found in self._modules["detector"].items()}
        return {**values, "data_collection_date": now}

    def described_v2(self, channel: str) -> dict[str, Any]:
        """What the start of a series in the newer format tells."""
        series = self.series()
        rows, columns = series.shape
        return {
            "arm_date": datetime.now(UTC),
            "beam_center_x": 0.0,
            "beam_center_y": 0.0,
            "channels": [channel],
            "count_time": series.count_time_s,
            "frame_time": series.frame_time_s,
            "image_dtype": f"uint{series.bit_depth}",
            "image_size_x": columns,
            "image_size_y": rows,
            "incident_energy": self._value("incident_energy"),
            "number_of_images": series.frames,
            "pixel_size_x": _PIXEL_SIZE_M,
            "pixel_size_y": _PIXEL_SIZE_M,
            "saturation_value": 2**series.bit_depth - 1,
            "threshold_energy": {channel: self._value("threshold_energy")},
            "user_data": self._value(wire.HEADER_APPENDIX, "stream"),
        }


def _checked(name: str, parameter: Parameter, value: Any) -> Any:
    """Return the value as the parameter's type; Unsettable if it does not take it."""
    if not parameter.writable:
        raise Unsettable(f"{name} is read-only")
    kind = parameter.value_type
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value) is not _TYPES[kind] or (kind == "float" and not math.isfinite(value)):
        raise Unsettable(f"{name} takes a {kind}, not {str(value)[:60]!r}")
    allowed: Sequence[Any] | None = parameter.allowed_values
    if allowed is not None and value not in allowed:
        raise Unsettable(f"{name} takes {', '.join(allowed)}, not {str(value)[:60]!r}")
    low, high = parameter.min, parameter.max
    if low is not None and high is not None and not low <= value <= high:
        raise Unsettable(f"{name} takes {low} to {high}, not {value}")
    return value
