"""The configuration of a simulated DECTRIS detector, kept consistent as the instrument keeps it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
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


def _told(value: Any, kind: str, unit: str | None = None) -> Parameter:
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
        wire.BIT_DEPTH_IMAGE: _told(16, "uint"),
        "bit_depth_readout": _told(16, "uint"),
        wire.DESCRIPTION: _told("pyrotome simulated SIMPLON detector", "string"),
        wire.DETECTOR_NUMBER: _told("S-00-0001", "string"),
        wire.SOFTWARE_VERSION: _told("1.8.0", "string"),
        "eiger_fw_version": _told("simulated", "string"),
        "data_collection_date": _told("1970-01-01T00:00:00.000Z", "string"),
        "detector_readout_time": _told(READOUT_S, "float", "s"),
        "frame_count_time": _told(0.01, "float", "s"),
        "frame_period": _told(0.01 + READOUT_S, "float", "s"),
        "countrate_correction_count_cutoff": _told(65_535, "uint"),
        "number_of_excluded_pixels": _told(0, "uint"),
        "sensor_material": _told("Si", "string"),
        "sensor_thickness": _told(0.00045, "float", "m"),
        "x_pixel_size": _told(_PIXEL_SIZE_M, "float", "m"),
        "y_pixel_size": _told(_PIXEL_SIZE_M, "float", "m"),
        "auto_summation": _flag(True),
        "countrate_correction_applied": _flag(False),
        "flatfield_correction_applied": _flag(False),
        "pixel_mask_applied": _flag(False),
        "beam_center_x": _real(0.0),
        "beam_center_y": _real(0.0),
        "chi_increment": _real(0.0, "degree"),
        "chi_start": _real(0.0, "degree"),
        "kappa_increment": _real(0.0, "degree"),
        "kappa_start": _real(0.0, "degree"),
        "detector_distance": _real(0.0, "m"),
        "detector_translation": _told([0.0, 0.0, 0.0], "float", "m"),
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


class Settings:
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
                self._modules["detector"][name] = _told(pixels, "uint")

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
        count_s, frame_s = self.count_time_s, self.frame_time_s
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

    @property
    def count_time_s(self) -> float:
        """Exposure of a frame."""
        return self._value(wire.COUNT_TIME)

    @property
    def frame_time_s(self) -> float:
        """From the start of one frame to the start of the next."""
        return self._value(wire.FRAME_TIME)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._value(wire.Y_PIXELS), self._value(wire.X_PIXELS)

    @property
    def bit_depth(self) -> int:
        """Of a pixel as it travels."""
        return self._value(wire.BIT_DEPTH_IMAGE)

    @property
    def compression(self) -> str:
        """Of a frame as it travels."""
        return self._value(wire.COMPRESSION)

    @property
    def external(self) -> bool:
        """Whether a signal triggers."""
        return self._value(wire.TRIGGER_MODE) in {"exts", "exte"}

    @property
    def images_per_trigger(self) -> int:
        """Frames that one trigger starts."""
        return 1 if self._value(wire.TRIGGER_MODE) == "exte" else self._value(wire.NIMAGES)

    @property
    def frames(self) -> int:
        """In all, of a series."""
        return self.images_per_trigger * self._value(wire.NTRIGGER)

    @property
    def streaming(self) -> bool:
        """Whether the stream is on."""
        return self._value(wire.STREAM_MODE, "stream") == "enabled"

    @property
    def cbor(self) -> bool:
        """Whether the stream has the newer format."""
        return self._value(wire.STREAM_FORMAT, "stream") == "cbor"

    @property
    def header_detail(self) -> str:
        """``basic`` or ``none``."""
        return self._value(wire.HEADER_DETAIL, "stream")

    @property
    def header_appendix(self) -> bytes | None:
        """What the user wants to travel with the start of a series."""
        return self._value(wire.HEADER_APPENDIX, "stream").encode() or None

    @property
    def image_appendix(self) -> bytes | None:
        """What the user wants to travel with each image."""
        return self._value(wire.IMAGE_APPENDIX, "stream").encode() or None

    def described_v1(self) -> dict[str, Any]:
        """What the start of a series in the older format tells."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f%z}"
        values = {name: found.value for name, found in self._modules["detector"].items()}
        return {**values, "data_collection_date": now}

    def described_v2(self, channel: str) -> dict[str, Any]:
        """What the start of a series in the newer format tells."""
        rows, columns = self.shape
        return {
            "arm_date": datetime.now(UTC),
            "beam_center_x": 0.0,
            "beam_center_y": 0.0,
            "channels": [channel],
            "count_time": self.count_time_s,
            "frame_time": self.frame_time_s,
            "image_dtype": f"uint{self.bit_depth}",
            "image_size_x": columns,
            "image_size_y": rows,
            "incident_energy": self._value("incident_energy"),
            "number_of_images": self.frames,
            "pixel_size_x": _PIXEL_SIZE_M,
            "pixel_size_y": _PIXEL_SIZE_M,
            "saturation_value": 2**self.bit_depth - 1,
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
