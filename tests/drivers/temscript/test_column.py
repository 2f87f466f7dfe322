"""Stage and beam against temscript's own server, and against servers that misbehave."""

import asyncio
import json
import math
import pickle
import re
import time
from pathlib import Path

import pytest

from pyrotome.drivers.base import DeviceLost, DeviceRefused, OutOfRange
from pyrotome.drivers.temscript.column import TemscriptBeam, TemscriptStage
from pyrotome.protocols.config.recipe import BeamSettings
from pyrotome.protocols.config.rig import BeamRig, StageRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.wires import temscript


def stage_of(endpoint, clock_speed=1.0, **limits):
    rig = StageRig.model_validate(
        {"driver": "temscript-stage", "endpoint": endpoint, "limits": limits}
    )
    return TemscriptStage("stage", rig, ExperimentClock(clock_speed))


def beam_of(endpoint, limits=None, **options):
    rig = BeamRig.model_validate(
        {
            "driver": "temscript-beam",
            "endpoint": endpoint,
            "options": options,
            "limits": limits or {},
        }
    )
    return TemscriptBeam("beam", rig, ExperimentClock())


def settings(voltage="200 kV", current="2 pA"):
    return BeamSettings.model_validate(
        {
            "voltage": voltage,
            "current": current,
            "dwell": "500 ns",
            "frame": [256, 512],
            "pixel_size": "1 nm",
        }
    )


# Against temscript-server --null: moves at once, says READY always, clamps at 30 deg.


@pytest.fixture
async def null_stage(temscript_server):
    stage = stage_of(temscript_server, 10.0)
    identity = await stage.connect()
    assert identity.model == "NULL"
    assert identity.firmware.startswith("temscript 2.")
    yield stage
    await stage.disconnect()


async def test_null_moves_and_reads_back(null_stage):
    low, high = await null_stage.tilt_limits_deg()
    assert (low, high) == pytest.approx((-30, 30), abs=1e-9)
    for tilt_deg in (12.5, -7.25, 0.0, 30.0, -30.0):
        before_ns = null_stage.clock.now_ns()
        at = await null_stage.move_to(tilt_deg)
        assert at.tilt_deg == pytest.approx(tilt_deg, abs=1e-9)
        assert before_ns + 0.3e9 <= at.t_ns <= null_stage.clock.now_ns()
    await null_stage.stop()
    await null_stage.make_safe()


async def test_beyond_limits_moves_nothing(null_stage):
    await null_stage.move_to(5.0)
    with pytest.raises(OutOfRange, match=r"stage's own limits are -30 to 30 deg; nothing was sent"):
        await null_stage.move_to(30.01)
    with pytest.raises(OutOfRange, match=r"rig's limits are -70 to 70"):
        await null_stage.move_to(80.0)
    with pytest.raises(OutOfRange):
        await null_stage.move_to(float("nan"))
    assert (await null_stage.position()).tilt_deg == pytest.approx(5.0, abs=1e-9)


async def test_angle_that_the_server_clamps_silently(null_stage):
    null_stage._limits_deg = (-70.0, 70.0)  # as if the instrument's limits were told wrong
    with pytest.raises(DeviceRefused, match=r"tilt to 45 deg.*ready at 30\.000 deg.*limits"):
        await null_stage.move_to(45.0)


async def test_null_beam(temscript_server):
    beam = beam_of(temscript_server)
    await beam.connect()
    await beam.unblank()
    assert not await beam.is_blanked()
    await beam.prepare(settings())
    assert await beam.is_blanked()
    assert await beam.current_pa() == pytest.approx(2.0)
    magnification = await beam._link.get(temscript.STEM_MAGNIFICATION)
    assert temscript.field_of_view_nm(magnification) == pytest.approx(512.0)
    before_ns = beam.clock.now_ns()
    assert before_ns <= await beam.unblank() <= await beam.blank() <= beam.clock.now_ns()
    await beam.unblank()
    await beam.make_safe()
    assert await beam.is_blanked()
    await beam.disconnect()
    await beam.make_safe()
    await beam.disconnect()


async def test_null_takes_and_gives_back_what_is_moved(temscript_server):
    """It shows nothing and clamps the stage alone: of the beam it takes any value."""
    limits = {"x": ["-2 mm", "2 mm"], "y": ["-1 mm", "1 mm"], "z": ["-1 mm", "1 mm"]}
    stage = stage_of(temscript_server, 10.0, **limits, xy_backlash="300 nm")
    await stage.connect()
    reach = await stage.reach()
    assert (reach["x"].high, reach["z"].low) == pytest.approx((1e6, -3e5))
    at = await stage.move_to(3.0, x_nm=5000.0, y_nm=-700.0, z_nm=1200.0)
    assert (at.x_nm, at.y_nm, at.z_nm) == pytest.approx((5000.0, -700.0, 1200.0))
    with pytest.raises(OutOfRange, match=r"stage's own limits are -300000 to 300000 nm; nothing"):
        await stage.move_to(0.0, z_nm=3.1e5)
    await stage.move_to(0.0, x_nm=0.0, y_nm=0.0, z_nm=0.0)
    await stage.disconnect()
    rig = BeamRig.model_validate(
        {
            "driver": "temscript-beam",
            "endpoint": temscript_server,
            "shift": {"limit": "2 um"},
            "focus": {"by": "defocus"},
            "scan_rotation": "-3.2 deg",
        }
    )
    beam = TemscriptBeam("beam", rig, ExperimentClock())
    await beam.connect()
    await beam.prepare(settings())
    assert await beam._link.get(temscript.STEM_ROTATION) == pytest.approx(math.radians(-3.2))
    await beam.deflect_units((500.0, -900.0))
    assert (await beam.deflection()).units == pytest.approx((500.0, -900.0))
    assert await beam._link.get(temscript.BEAM_SHIFT) == pytest.approx([5e-7, -9e-7])
    with pytest.raises(
        DeviceRefused, match=r"has not been calibrated; nothing was sent.*Calibrate"
    ):
        await beam.deflect((5.0, 5.0))
    await beam.focus(1500.0)
    assert await beam._link.get(temscript.DEFOCUS) == pytest.approx(1.5e-6)
    await beam.focus(0.0)
    await beam.deflect_units((0.0, 0.0))
    await beam.disconnect()


async def test_with_a_speed_the_axes_move_one_at_a_time(simulate):
    """Several at once with a speed are refused by the microscope (scripting manual, Titan 1.1)."""
    limits = {"x": ["-9 um", "9 um"], "y": ["-9 um", "9 um"], "z": ["-9 um", "9 um"]}
    async with simulate(speed=10.0, stage__limits=limits) as (simulation, rig):
        entry = rig.stage.model_copy(update={"options": {"speed": 0.5}})
        stage = TemscriptStage("stage", entry, simulation.clock)
        await stage.connect()
        sent = []
        put = stage._link.put

        async def listen(name, value, *args):
            sent.append((sorted(value), args[-1]))
            await put(name, value, *args)

        stage._link.put = listen
        await stage.move_to(4.0, x_nm=500.0, y_nm=600.0, z_nm=700.0)
        assert [axes for axes, _ in sent] == [["z"], ["a"], ["x"], ["y"]]
        assert {query for _, query in sent} == {"?method=GO&speed=0.5"}
        await stage.disconnect()


async def test_high_tension_that_differs_names_both(temscript_server):
    beam = beam_of(temscript_server)
    await beam.connect()
    with pytest.raises(DeviceRefused, match=r"300 kV.*at 200 kV"):
        await beam.prepare(settings("300 kV"))
    assert await beam.is_blanked()
    await beam.disconnect()


async def test_currents_beyond_table_and_rig(temscript_server):
    beam = beam_of(temscript_server)
    await beam.connect()
    with pytest.raises(OutOfRange, match=r"65 pA.*largest spot has 64 pA"):
        await beam.prepare(settings(current="65 pA"))
    await beam.disconnect()
    limited = beam_of(temscript_server, {"current": "1 pA"})
    await limited.connect()
    with pytest.raises(OutOfRange, match=r"2 pA.*rig's limit is 1 pA"):
        await limited.prepare(settings())
    await limited.disconnect()


async def test_a_column_of_its_own(temscript_server):
    beam = beam_of(temscript_server, spot_currents_pa={"3": 50, "7": 4}, display_width_m=0.2)
    await beam.connect()
    await beam.prepare(settings())
    assert await beam._link.get(temscript.SPOT_SIZE_INDEX) == 7
    assert await beam._link.get(temscript.INTENSITY) == pytest.approx(0.5)
    assert await beam._link.get(temscript.STEM_MAGNIFICATION) == pytest.approx(0.2 / 512e-9)
    await beam.disconnect()


# Against our simulator: moves take their time.


async def test_simulated_stage_and_beam(simulate):
    async with simulate(speed=10.0, stage__limits={"backlash": "0.5 deg"}) as (simulation, rig):
        stage = TemscriptStage("stage", rig.stage, simulation.clock)
        beam = TemscriptBeam("beam", rig.beam, simulation.clock)
        await stage.connect()
        await beam.connect()
        for tilt_deg in (-40.0, -38.0, 10.0, 9.5):
            sent_ns = stage.clock.now_ns()
            before_deg = (await stage.position()).tilt_deg
            at = await stage.move_to(tilt_deg)
            needed_s = abs(tilt_deg - before_deg) / 20 + rig.stage.limits.settle_s
            assert at.t_ns - sent_ns > needed_s * 1e9
            assert at.tilt_deg == pytest.approx(tilt_deg, abs=0.05)
            truth_deg = simulation.world.stage.true_tilt_deg(stage.clock.now_ns())
            assert truth_deg == pytest.approx(tilt_deg, abs=0.05)
        move = asyncio.create_task(stage.move_to(75.0))
        await asyncio.sleep(0.05)
        move.cancel()
        await asyncio.wait([move])
        await stage.stop()
        stopped_deg = (await stage.position()).tilt_deg
        assert stopped_deg < 70
        await stage.clock.sleep(1.0)
        assert (await stage.position()).tilt_deg == pytest.approx(stopped_deg, abs=0.05)
        await beam.prepare(settings("300 kV", "3 pA"))
        column = simulation.world.column.state(beam.clock.now_ns())
        assert column.blanked
        assert column.current_pa == pytest.approx(3.0)
        await beam.unblank()
        assert not simulation.world.column.state(beam.clock.now_ns()).blanked
        await beam.make_safe()
        assert simulation.world.column.state(beam.clock.now_ns()).blanked
        await stage.disconnect()
        await beam.disconnect()


# Servers that misbehave.


def http(answers):
    """Serve HTTP/1.0 from a function of method and name: (status, type, body), None for silence."""

    async def handle(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split("\r\n", 1)[0].split(" ")
        name = path.removeprefix("/v1/").split("?")[0]
        lengths = [
            h.split(":")[1] for h in head.split("\r\n") if h.lower().startswith("content-length")
        ]
        body = await reader.readexactly(int(lengths[0])) if lengths else b""
        answer = answers(method, name, json.loads(body) if body else None, head)
        if answer is None:
            await reader.read()
            return
        status, kind, raw = answer
        writer.write(
            f"HTTP/1.0 {status}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(raw)}\r\n\r\n".encode()
            + raw
        )
        await writer.drain()

    return handle


def ok(value):
    return "200 OK", "application/json", json.dumps(value).encode()


class Microscope:
    """A stage that moves in steps, one for each look at its status."""

    def __init__(self):
        self.tilt_deg, self.target_deg, self.step_deg = 0.0, 0.0, 1.0
        self.commanded, self.override = [], {}

    def __call__(self, method, name, value, head):
        assert "pickle" not in head.lower()
        if (method, name) in self.override:
            return self.override[method, name]
        if method == "PUT":
            if name == "stage_position":
                self.target_deg = temscript.target_from_wire(value)["a_deg"]
                self.commanded.append(round(self.target_deg, 9))
            return "204 No Content", "text/plain", b""
        if name == "stage_status":
            left = self.target_deg - self.tilt_deg
            self.tilt_deg += max(-self.step_deg, min(self.step_deg, left))
            return ok("READY" if abs(left) < 1e-9 else "MOVING")
        answers = {
            "version": "2.1.0",
            "family": "TITAN",
            "microscope_id": "1",
            "stage_limits": temscript.limits_to_wire({"a_deg": (-80.0, 80.0)}),
            "stage_position": temscript.position_to_wire(
                temscript.StageCoordinates(a_deg=self.tilt_deg)
            ),
            "beam_blanked": False,
        }
        return ok(answers[name])


@pytest.fixture
async def odd(serve):
    microscope = Microscope()
    endpoint = f"http://127.0.0.1:{await serve(http(microscope))}"
    stage, beam = stage_of(endpoint, 20.0, speed="100 deg/s"), beam_of(endpoint)
    await stage.connect()
    await beam.connect()
    yield microscope, stage, beam
    await stage.disconnect()
    await beam.disconnect()


async def test_waits_until_the_stage_has_arrived(odd):
    microscope, stage, _ = odd
    at = await stage.move_to(7.0)
    assert at.tilt_deg == pytest.approx(7.0)
    assert microscope.commanded == [7.0]


async def test_arrives_from_below_against_backlash(serve):
    microscope = Microscope()
    endpoint = f"http://127.0.0.1:{await serve(http(microscope))}"
    stage = stage_of(endpoint, 20.0, backlash="1 deg", tilt=["-10 deg", "10 deg"])
    await stage.connect()
    for tilt_deg in (4.0, 4.0, 2.0, 2.5, -10.0):
        await stage.move_to(tilt_deg)
    # Upwards by more than the backlash: at once. Already there: not at all. Else from below.
    assert microscope.commanded == [4.0, 1.0, 2.0, 1.5, 2.5, -10.0, -10.0]
    await stage.disconnect()


async def test_stage_that_never_arrives_is_lost_at_the_deadline(odd, monkeypatch):
    microscope, stage, _ = odd
    monkeypatch.setattr("pyrotome.drivers.common.polled_stage.GRACE_S", 0.3)
    microscope.step_deg = 0.0
    started = time.monotonic()
    with pytest.raises(DeviceLost, match=r"tilt to 10 deg.*MOVING at 0\.000 deg"):
        await stage.move_to(10.0)
    assert 0.3 <= time.monotonic() - started < 2.0


async def test_stop_ends_a_move(odd):
    microscope, stage, _ = odd
    microscope.step_deg = 0.05
    move = asyncio.create_task(stage.move_to(60.0))
    while microscope.tilt_deg < 0.2:
        await asyncio.sleep(0.005)
    move.cancel()
    await asyncio.wait([move])
    await stage.stop()
    assert microscope.target_deg == pytest.approx(microscope.tilt_deg)
    assert microscope.tilt_deg < 30


async def test_stage_disabled(odd):
    microscope, stage, _ = odd
    microscope.override["GET", "stage_status"] = ok("DISABLED")
    with pytest.raises(DeviceRefused, match="stage is disabled"):
        await stage.move_to(1.0)


async def test_error_of_the_server_is_passed_on(odd):
    microscope, stage, _ = odd
    refusal = ("500 Error handling request: stage locked", "text/html", b"<html>")
    microscope.override["PUT", "stage_position"] = refusal
    with pytest.raises(DeviceRefused, match=r"set stage_position.*500.*stage locked"):
        await stage.move_to(1.0)


async def test_pickle_is_never_read(odd):
    microscope, stage, _ = odd
    pickled = b"\x80\x04K\x01."
    microscope.override["GET", "stage_position"] = ("200 OK", "application/python-pickle", pickled)
    with pytest.raises(DeviceRefused, match="application/python-pickle"):
        await stage.position()


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "kind",
    ["application/python-pickle", "application/json", "application/octet-stream", "text/html"],
)
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
async def test_pickle_is_refused_whatever_it_is_called(odd, tmp_path, kind, protocol):
    microscope, stage, beam = odd
    raw = pickle.dumps(Bomb(tmp_path / "boom"), protocol)
    for name in ("version", "stage_position", "beam_blanked"):
        microscope.override["GET", name] = ("200 OK", kind, raw)
    for question in (stage.position(), beam.is_blanked(), stage.connect(), beam.connect()):
        with pytest.raises(DeviceRefused, match="is not temscript's JSON"):
            await question
    assert not (tmp_path / "boom").exists()
    pickle.loads(raw)
    assert (tmp_path / "boom").exists()  # it would have


def test_nothing_of_ours_can_read_pickle():
    root = Path(temscript.__file__).parents[1]
    for folder in ("protocols", "drivers", "simulators", "daemon", "analysis"):
        for file in (root / folder).glob("*.py"):
            text = file.read_text()
            assert not re.search(
                r"^\s*(import|from) (pickle|dill|cloudpickle|joblib)", text, re.M
            ), file
            assert "allow_pickle=True" not in text, file


@pytest.mark.parametrize("body", [b"not json", b"[1, 2]", b'{"a": "x"}', b"null", b"[" * 99_999])
async def test_answers_that_are_none(odd, body):
    microscope, stage, _ = odd
    microscope.override["GET", "stage_position"] = ("200 OK", "application/json", body)
    with pytest.raises(DeviceRefused, match="stage_position"):
        await stage.position()


async def test_endless_answer(odd):
    microscope, stage, _ = odd
    raw = b" " * 2_000_000
    microscope.override["GET", "stage_position"] = ("200 OK", "application/json", raw)
    with pytest.raises(DeviceRefused, match="more than"):
        await stage.position()


async def test_blanker_that_does_not_obey(odd):
    _, _, beam = odd
    with pytest.raises(DeviceRefused, match=r"blank the beam.*still reports that the beam is on"):
        await beam.blank()
    with pytest.raises(DeviceRefused, match="still reports"):
        await beam.make_safe()


async def test_old_server(odd):
    microscope, stage, _ = odd
    microscope.override["GET", "version"] = ok("1.0.9")
    with pytest.raises(DeviceRefused, match=r"temscript 1\.0\.9.*2\.0 or later"):
        await stage.connect()


async def test_silence_and_then_again(odd, monkeypatch):
    microscope, stage, _ = odd
    monkeypatch.setattr("pyrotome.drivers.temscript.http.TemscriptHttp.get.__defaults__", (0.2,))
    microscope.override["GET", "stage_position"] = None
    with pytest.raises(DeviceLost, match=r"read stage_position.*within 0\.2 s"):
        await stage.position()
    del microscope.override["GET", "stage_position"]
    await stage.connect()
    assert (await stage.move_to(1.0)).tilt_deg == pytest.approx(1.0)


async def test_hundred_exchanges_are_quick(odd):
    _, _, beam = odd
    started = time.monotonic()
    for _ in range(100):
        await beam.is_blanked()
    assert time.monotonic() - started < 2.0
