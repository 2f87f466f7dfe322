"""Heater logs of vendors are read as RosettaSciIO reads them, and nonsense is refused."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from pyrotome.analysis.io.heater_logs import read_heater_log
from pyrotome.protocols.core.errors import BadInput

TEMPERATURES = [200.1, 200.2, 349.8, 350.0, 350.1, 201.0]


def digiheater(folder: Path) -> Path:
    path = folder / "heater.csv"
    head = [
        "16/04/'15 13:53\tDigiheater 3.1",
        "R0=110.2\ta=0.003\tb=-1e-7\tc=0.1",
        "delta_t=0.33",
        "sample\ttime\tTset[C]\tTmeas[C]\tRheat[ohm]\tVheat[V]\tIheat[mA]\tPheat [mW]\tc",
    ]
    rows = [
        f"{n}\t13:54:{37 + n}.500\t350\t{t}\t110\t1\t2\t3\t0" for n, t in enumerate(TEMPERATURES)
    ]
    path.write_text("\n".join([*head, *rows]) + "\n")
    return path


def impulse(folder: Path) -> Path:
    path = folder / "Run_Synchronized data.csv"
    head = "Experiment time,TimeStamp,Temperature Setpoint (degC),Temperature Measured (degC)"
    stamps = ["23:59:57", "23:59:58", "23:59:59", "00:00:00", "00:00:01", "00:00:02"]
    rows = [
        f"{0.5 + n},{stamp}.000,350,{t}"
        for n, (stamp, t) in enumerate(zip(stamps, TEMPERATURES, strict=True))
    ]
    path.write_text("\n".join([head, *rows]) + "\n")
    notes = "Experiment date,06-08-2021\nExperiment time,23:59:56\nLive notes,none\n"
    (folder / "Run_Metadata.log").write_text(notes)
    return path


def protochips(folder: Path) -> Path:
    path = folder / "proto.csv"
    said = [
        "Time units = Milliseconds", "Temperature units = Degrees C",
        "Calibration file = C:\\a.csv", "Date (yyyy.mm.dd) = 2014.12.13",
        "Time (hh:mm:ss.ms) = 22:56:20.196", "User = nobody",
    ]  # fmt: skip
    rows = [f"{1000 * n + 123},,{t}" for n, t in enumerate(TEMPERATURES)]
    lines = ["Time, Notes, Channel A Temperature", *(f", {line}, " for line in said), *rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def plain(folder: Path, text: str) -> Path:
    path = folder / "log.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("make", "form", "start", "first_s"),
    [
        (digiheater, "DigiHeater", datetime(2015, 4, 16, 13, 54, 37, 500_000), 0.0),
        (impulse, "Impulse", datetime(2021, 8, 6, 23, 59, 57), 0.0),
        (protochips, "Protochips", datetime(2014, 12, 13, 22, 56, 20, 196_000), 0.123),
    ],
)
def test_logs_of_vendors(
    tmp_path: Path, make: object, form: str, start: datetime, first_s: float
) -> None:
    log = read_heater_log(make(tmp_path))  # type: ignore[operator]
    assert log.form == form
    assert log.start == start
    assert not log.from_first_frame
    assert log.temperature_c.tolist() == TEMPERATURES
    assert np.allclose(log.time_s, first_s + np.arange(6))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "module", "signal"),
    [(digiheater, "dens", 0), (impulse, "impulse", 1), (protochips, "protochips", 0)],
)
def test_rosettasciio_reads_the_same(
    tmp_path: Path, make: object, module: str, signal: int
) -> None:
    reader = pytest.importorskip(f"rsciio.{module}")
    path = make(tmp_path)  # type: ignore[operator]
    signals = reader.file_reader(str(path))
    ours = read_heater_log(path)
    theirs = signals[min(signal, len(signals) - 1)]
    assert np.allclose(theirs["data"], ours.temperature_c)
    assert theirs["axes"][0]["scale"] == pytest.approx(np.diff(ours.time_s).mean(), rel=1e-6)


def test_plain_csv(tmp_path: Path) -> None:
    path = plain(tmp_path, "\ufefftime_s,temperature_c\n# note\n-10,20\n0,200\n1,nan\n5,201\n")
    log = read_heater_log(path)
    assert log.from_first_frame
    assert log.time_s.tolist() == [-10, 0, 5]
    assert log.temperature_c.tolist() == [20, 200, 201]
    assert log.left_out == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its first line is ''; known heater logs: DigiHeater"),
        ("a,b\n1,2\n", "its first line is 'a,b'"),
        ("time_s,temperature_c\n0,20\n", "with 1 samples"),
        ("time_s,temperature_c\n0,20\n5,21\n4,22\n", r"log.csv:4: the time goes back from 5 to 4"),
        ("time_s,temperature_c\n0,20\nx,21\n", r"log.csv:3: 'x' is no time"),
        ("time_s,temperature_c\n0,20\n1\n", r"log.csv:3: has 1 cells"),
        ("time_s,temperature_c\n0,20\n1,1e30\n", r"log.csv:3: the temperature is 1e\+30"),
        ("TimeStamp,Experiment time,Flow\n12:00:00,0,1\n", "without a column of temperature"),
        ("Time, Notes, Channel A Current\n", "without a temperature"),
        ("x\0y", "is no text"),
    ],
)
def test_what_is_no_log(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_heater_log(plain(tmp_path, text))


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_heater_log(tmp_path / "nothing.csv")
