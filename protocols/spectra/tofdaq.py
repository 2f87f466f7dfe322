"""Files of TofDaq, the acquisition program of TOFWERK's mass spectrometers: reading and writing.

HDF5 (wire card C5): a write of the file is one frame of a scan. ``PeakData/PeakData`` holds counts
of each peak in each pixel; files that were not processed yet hold ``FullSpectra/EventList``, the
arrival times of all ions of each pixel, and ``PeakData/PeakTable`` with the windows of the peaks.
Times are in samples of the clock, masses in ``FullSpectra/MassAxis``, one for each sample.
"""

from __future__ import annotations

import configparser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput

_MM_TO_UM = 1e3
_PEAK = np.dtype(
    [("label", "S64"), ("mass", "<f4"), ("lower integration limit", "<f4"),
     ("upper integration limit", "<f4")]
)  # fmt: skip
_LOG = np.dtype([("timestamp", "<u8"), ("timestring", "S26"), ("logtext", "S256")])
_NEEDED = ("FullSpectra", "TimingData", "AcquisitionLog")
# A count that is off from a whole number by more is no count.
_WHOLE = 1e-3


@dataclass(frozen=True)
class Peaks:
    """The peaks of a file.

    Attributes
    ----------
    labels : tuple of str
        Names.
    mass : ndarray of shape (peaks,)
        Mass over charge, ascending.
    low, high : ndarray of shape (peaks,)
        Windows of integration.
    """

    labels: tuple[str, ...]
    mass: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class TofDaqFile:
    """A file of TofDaq, open for reading.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    BadInput
        If it is missing, no file of TofDaq, or one without a scan.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise BadInput(str(path), "no such file")
        try:
            self._file: Any = h5py.File(path, "r")
        except OSError as error:
            raise BadInput(str(path), f"is no HDF5 file, or a damaged one: {error}") from None
        try:
            self._read_head()
        except BaseException:
            self._file.close()
            raise

    def _read_head(self) -> None:
        missing = [name for name in _NEEDED if name not in self._file]
        if missing or "TofDAQ Version" not in self._file.attrs:
            what = missing[0] if missing else "the attribute 'TofDAQ Version'"
            raise BadInput(str(self._path), f"is no file of TofDaq: {what} is missing")
        self.peaks = self._read_peaks()
        data = self._file.get("PeakData/PeakData")
        if data is None:
            data = self._file.get("FullSpectra/EventList")
        if data is None or len(data.shape) < 3:
            raise BadInput(str(self._path), "holds neither PeakData nor EventList of a scan")
        self._data: Any = data
        self.processed = len(data.shape) == 4
        if self.processed and data.shape[3] != len(self.peaks.mass):
            raise BadInput(
                str(self._path),
                f"PeakData has {data.shape[3]} peaks, PeakTable {len(self.peaks.mass)}",
            )
        self._channels_recorded = _channels_recorded(self._file.attrs)

    def _read_peaks(self) -> Peaks:
        if "PeakData/PeakTable" not in self._file:
            raise BadInput(str(self._path), "has no PeakTable; give it one in TofDaq Viewer")
        table = self._file["PeakData/PeakTable"][:]
        if not len(table):
            raise BadInput(str(self._path), "its PeakTable is empty")
        order = np.argsort(table["mass"], kind="stable")
        table = table[order]
        self._order = order
        labels = [bytes(label).decode("utf-8", "replace").strip("\0 ") for label in table["label"]]
        low, high = table["lower integration limit"], table["upper integration limit"]
        return Peaks(
            tuple(labels),
            table["mass"].astype(np.float64),
            low.astype(np.float64),
            high.astype(np.float64),
        )

    def __enter__(self) -> TofDaqFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def frames(self) -> int:
        """Writes of the file."""
        return int(self._data.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the scan."""
        return int(self._data.shape[1]), int(self._data.shape[2])

    @property
    def pixel_um(self) -> float | None:
        """Size of a pixel, from the field of view; None where it is not told."""
        for group in ("FIBParams", "FibParams"):
            with suppress(KeyError, TypeError, ValueError, IndexError):
                field_mm = float(np.ravel(self._file[group].attrs["ViewField"])[0])
                if field_mm > 0:
                    return field_mm * _MM_TO_UM / self.shape[1]
        return None

    @property
    def start_s(self) -> NDArray[np.float64] | None:
        """When each frame began, from the first one; None where the times do not ascend."""
        times = self._file.get("TimingData/BufTimes")
        if times is None or times.shape[0] < self.frames:
            return None
        begun = np.asarray(times[: self.frames], np.float64).reshape(self.frames, -1)[:, 0]
        if not np.isfinite(begun).all() or (np.diff(begun) <= 0).any():
            return None
        return begun - begun[0]

    def counts(self, index: int) -> NDArray[np.float32]:
        """Counts of a frame, shape (rows, columns, peaks); for a file with PeakData.

        Raises
        ------
        BadInput
            If the values are not counts.
        """
        stored = np.asarray(self._data[index], np.float32)[..., self._order]
        counts = stored * self._normalisation
        whole = np.rint(counts)
        if not np.isfinite(counts).all() or counts.min(initial=0.0) < 0:
            raise BadInput(str(self._path), f"write {index} holds values below zero, or not finite")
        if np.abs(counts - whole).max(initial=0.0) > _WHOLE * max(1.0, float(whole.max(initial=1))):
            raise BadInput(
                str(self._path),
                f"the values of write {index} are not whole numbers of ions; give a file with its "
                "EventList, or with NbrWaveforms as it was recorded",
            )
        return whole

    def events(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Events of a frame, for a file that was not processed.

        Returns
        -------
        counts : ndarray of shape (rows, columns)
            Events of each pixel that lie in a window of the peaks.
        channels : ndarray of shape (events,)
            Peak of each, pixel after pixel.
        """
        rows = self._data[index]
        lengths = np.array([len(pixel) for pixel in rows.ravel()], np.int64)
        times = np.concatenate([*rows.ravel(), np.zeros(0, np.uint16)]).astype(np.int64)
        channel = self._window_of_sample()[np.clip(times // self._clock_ratio, 0, None)]
        kept = channel >= 0
        pixel = np.repeat(np.arange(len(lengths)), lengths)[kept]
        counts = np.bincount(pixel, minlength=len(lengths)).reshape(rows.shape)
        return counts.astype(np.int64), channel[kept]

    @property
    def _normalisation(self) -> float:
        waveforms = float(np.ravel(self._file.attrs.get("NbrWaveforms", 1))[0])
        return max(1.0, waveforms * self._channels_recorded)

    @property
    def _clock_ratio(self) -> int:
        attributes = self._file["FullSpectra"].attrs
        sample = float(np.ravel(attributes.get("SampleInterval", 1.0))[0])
        clock = float(np.ravel(attributes.get("ClockPeriod", sample))[0])
        return max(1, round(sample / clock)) if clock > 0 else 1

    def _window_of_sample(self) -> NDArray[np.int32]:
        """Peak that each sample belongs to, -1 for none; longer than the mass axis by overflow."""
        mass = np.asarray(self._file["FullSpectra/MassAxis"], np.float64)
        peak = np.searchsorted(self.peaks.low, mass, side="right") - 1
        inside = (peak >= 0) & (mass < self.peaks.high[np.clip(peak, 0, None)])
        found = np.where(inside, peak, -1).astype(np.int32)
        return np.concatenate([found, np.full(65536, -1, np.int32)])


def _channels_recorded(attributes: Any) -> int:
    """How many channels of the digitiser were recorded: sums are divided by their number."""
    text = attributes.get("Configuration File Contents", "")
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    with suppress(configparser.Error):
        parser.read_string(text)
        if parser.has_section("TOFParameter"):
            part = parser["TOFParameter"]
            recorded = [part.get(f"Ch{number}Record", "0").strip() for number in range(1, 5)]
            return max(1, recorded.count("1"))
    return 1


class TofDaqWriter:
    """Writes frames into a new file of TofDaq, which can be read while it grows.

    Parameters
    ----------
    path : Path
        A new file.
    mass : sequence of float
        Mass over charge of each peak.
    shape : tuple of int
        Rows and columns.
    pixel_um : float
        Size of a pixel.
    began : datetime
        When the acquisition began.
    labels : sequence of str, optional
        Names of the peaks.
    """

    def __init__(
        self,
        path: Path,
        mass: Sequence[float],
        shape: tuple[int, int],
        pixel_um: float,
        began: datetime,
        labels: Sequence[str] | None = None,
    ) -> None:
        self._file: Any = h5py.File(path, "x", libver="latest")
        self._frames = 0
        rows, columns = shape
        head = self._file.attrs
        head["TofDAQ Version"] = np.float32(1.99)
        head["HDF5 File Creation Time"] = began.strftime("%d.%m.%Y %H:%M:%S")
        head["IonMode"] = "positive"
        head["Configuration File Contents"] = "[TOFParameter]\nCh1Record=1\n"
        for name, number in (
            ("NbrWrites", 0), ("NbrBufs", rows), ("NbrSegments", rows), ("NbrPeaks", len(mass)),
            ("NbrSamples", len(mass)), ("NbrWaveforms", 1), ("NbrBlocks", 1),
        ):  # fmt: skip
            head[name] = np.int32(number)
        self._file.create_group("FIBParams").attrs["ViewField"] = pixel_um * columns / _MM_TO_UM
        spectra = self._file.create_group("FullSpectra")
        spectra.attrs["Single Ion Signal"] = 1.0
        spectra["MassAxis"] = np.asarray(mass, np.float32)
        self._sum = spectra.create_dataset("SumSpectrum", data=np.zeros(len(mass)))
        table = np.zeros(len(mass), _PEAK)
        table["label"] = [
            text.encode() for text in labels or [f"nominal_{value:g}" for value in mass]
        ]
        table["mass"] = mass
        table["lower integration limit"] = np.asarray(mass) - 0.5
        table["upper integration limit"] = np.asarray(mass) + 0.5
        self._file["PeakData/PeakTable"] = table
        self._data = self._file.create_dataset(
            "PeakData/PeakData", (0, rows, columns, len(mass)), np.float32,
            maxshape=(None, rows, columns, len(mass)), chunks=(1, rows, columns, min(8, len(mass))),
            compression="gzip", compression_opts=1, shuffle=True,
        )  # fmt: skip
        self._times = self._file.create_dataset(
            "TimingData/BufTimes", (0, rows), np.float64, maxshape=(None, rows), chunks=(1, rows)
        )
        log = np.zeros(1, _LOG)
        log["timestring"] = began.strftime("%Y-%m-%dT%H:%M:%S").encode()
        log["logtext"] = b"Acquisition started"
        self._file["AcquisitionLog/Log"] = log

    def append(self, counts: NDArray[Any], row_s: NDArray[np.float64]) -> None:
        """Add a frame.

        Parameters
        ----------
        counts : ndarray of shape (rows, columns, peaks)
            Ions.
        row_s : ndarray of shape (rows,)
            When each row began, after the acquisition did.
        """
        self._data.resize(self._frames + 1, axis=0)
        self._times.resize(self._frames + 1, axis=0)
        self._data[self._frames], self._times[self._frames] = counts, row_s
        self._sum[:] += counts.sum(axis=(0, 1))
        self._frames += 1
        self._file.attrs["NbrWrites"] = np.int32(self._frames)
        self._file.flush()

    def __enter__(self) -> TofDaqWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
