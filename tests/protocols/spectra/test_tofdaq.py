"""Files of TofDaq: ours, read by us and by rosettasciio; those of another writer, read by us."""

from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest

from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.spectra.tofdaq import TofDaqFile, TofDaqWriter

FOREIGN = Path(__file__).parents[4] / "shared" / "data" / "spectra"
MASS = [11.0, 23.0, 52.0, 56.0]


def written(path, counts):
    rows = counts.shape[1]
    with TofDaqWriter(path, MASS, counts.shape[1:3], 0.055, datetime(2026, 1, 2)) as file:
        for number, frame in enumerate(counts):
            file.append(frame, 1.4 * (number + np.arange(rows) / rows))
    return path


@pytest.fixture
def counts():
    return np.random.default_rng(1).poisson(2.0, (3, 6, 8, 4))


def test_what_is_written_is_read(tmp_path, counts):
    with TofDaqFile(written(tmp_path / "ramp.h5", counts)) as file:
        assert (file.frames, file.shape, file.processed) == (3, (6, 8), True)
        assert file.peaks.mass.tolist() == MASS
        assert file.pixel_um == pytest.approx(0.055)
        assert file.start_s == pytest.approx([0.0, 1.4, 2.8])
        for number in range(3):
            assert np.array_equal(file.counts(number), counts[number])


def test_rosettasciio_reads_it_to_the_last_count(tmp_path, counts):
    tofwerk = pytest.importorskip(
        "rsciio.tofwerk", reason="this rosettasciio has no Tofwerk reader"
    )
    path = written(tmp_path / "ramp.h5", counts)
    (signal,) = tofwerk.file_reader(path, signal="nominal_peak_data", show_progressbar=False)
    assert np.array_equal(np.asarray(signal["data"]), counts)


@pytest.mark.skipif(not FOREIGN.is_dir(), reason="the shared data are not at hand")
def test_the_events_of_another_writer_are_counted_in_the_windows_of_its_peaks():
    with (
        TofDaqFile(FOREIGN / "fib_sims_raw.h5") as raw,
        h5py.File(FOREIGN / "fib_sims_raw.h5") as stored,
    ):
        assert (raw.processed, raw.frames, raw.shape) == (False, 5, (16, 16))
        assert raw.start_s is None, "its times do not ascend"
        axis = stored["FullSpectra/MassAxis"][:]
        for number in range(5):
            pixels, channels = raw.events(number)
            events = np.concatenate(list(stored["FullSpectra/EventList"][number].ravel()))
            masses = axis[events]
            for peak, (low, high) in enumerate(zip(raw.peaks.low, raw.peaks.high, strict=True)):
                assert (channels == peak).sum() == ((masses >= low) & (masses < high)).sum()
            assert pixels.sum() == len(channels)


@pytest.mark.skipif(not FOREIGN.is_dir(), reason="the shared data are not at hand")
def test_values_that_are_no_whole_ions_are_refused_with_a_remedy():
    with TofDaqFile(FOREIGN / "fib_sims_opened.h5") as opened:
        assert opened.processed
        with pytest.raises(BadInput, match="not whole numbers of ions; give a file with its Event"):
            opened.counts(0)


def test_what_is_no_such_file_is_refused(tmp_path, counts):
    with pytest.raises(BadInput, match="no such file"):
        TofDaqFile(tmp_path / "none.h5")
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    with pytest.raises(BadInput, match="no HDF5 file"):
        TofDaqFile(text)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = 1
    with pytest.raises(BadInput, match="FullSpectra is missing"):
        TofDaqFile(tmp_path / "other.h5")
    path = written(tmp_path / "ramp.h5", counts)
    with h5py.File(path, "a") as file:
        file["PeakData/PeakData"][1, 0, 0, 0] = 0.37
        file["PeakData/PeakData"][2, 0, 0, 0] = -1.0
    with TofDaqFile(path) as file:
        with pytest.raises(BadInput, match="not whole numbers of ions"):
            file.counts(1)
        with pytest.raises(BadInput, match="below zero"):
            file.counts(2)
    with pytest.raises(FileExistsError):
        written(path, counts)
