"""The temscript wire by plain HTTP and by temscript's own client."""

import asyncio
import contextlib
import json
import math
import re
import socket
import time
from contextlib import asynccontextmanager

import aiohttp
import pytest

from pyrotome.protocols.config.faults import parse_fault
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.simulators.servers import temscript as temscript_server

TILT_10 = math.radians(10.0)
SLOW_STAGE = SimulatorRig.model_validate(
    {"goniometer": {"speed": "10 deg/s"}, "specimen": {"kind": "cu-sintering", "particles": 1}}
)


@pytest.fixture
def http(simulate):
    @asynccontextmanager
    async def start(**options):
        async with simulate(**options) as simulation:
            base = simulation.devices["stage"]["endpoint"]
            async with aiohttp.ClientSession(base) as session:
                yield simulation, session

    return start


@pytest.mark.interop
async def test_temscripts_client_moves_the_stage_and_the_blanker(simulate):
    temscript = pytest.importorskip("temscript")

    def session(port):
        scope = temscript.RemoteMicroscope(("127.0.0.1", port), timeout=60)
        try:
            assert scope.get_version() == "2.1.0"
            assert scope.get_voltage() == pytest.approx(300.0)
            assert scope.get_stage_holder() == "SINGLE_TILT"
            low, high = scope.get_stage_limits()["a"]
            assert (low, high) == pytest.approx((math.radians(-80), math.radians(80)))
            assert scope.get_stage_status() == "READY"
            scope.set_stage_position({"a": TILT_10})
            assert scope.get_stage_status() == "GOING"
            end = time.monotonic() + 60
            while scope.get_stage_status() == "GOING":
                assert time.monotonic() < end
            position = scope.get_stage_position()
            assert position["a"] == pytest.approx(TILT_10, abs=math.radians(0.02))
            assert {"x", "y", "z", "a", "b"} == set(position)
            scope.set_stage_position({"a": 0.0}, method="MOVE")
            assert scope.get_stage_status() == "MOVING"
            scope.set_stage_position({"x": 1e-7}, speed=0.5)
            assert scope.get_beam_blanked() is True
            assert scope.get_screen_current() == 0.0
            scope.set_beam_blanked(False)
            assert scope.get_beam_blanked() is False
            assert scope.get_screen_current() == pytest.approx(2e-12)
            scope.set_spot_size_index(3)
            scope.set_intensity(0.5)
            assert (scope.get_spot_size_index(), scope.get_intensity()) == (3, 0.5)
            assert scope.get_screen_current() == pytest.approx(8e-12)
            scope.set_stem_magnification(1e5)
            assert scope.get_stem_magnification() == pytest.approx(1e5)
            with pytest.raises(RuntimeError, match="beyond the limits"):
                scope.set_stage_position({"a": 3.0})
            scope.set_beam_shift((2e-8, -3e-8))
            assert scope.get_beam_shift() == pytest.approx((2e-8, -3e-8))
            scope.set_probe_defocus(1e-6)
            scope.set_defocus(-4e-7)
            assert scope.get_probe_defocus() == pytest.approx(1e-6)
            assert scope.get_defocus() == pytest.approx(-4e-7)
            scope.set_stem_rotation(TILT_10)
            assert scope.get_stem_rotation() == pytest.approx(TILT_10)
            with pytest.raises(KeyError):
                scope.get_illuminated_area()
            with pytest.raises(RuntimeError, match="406"):
                temscript.RemoteMicroscope(("127.0.0.1", port), transport="PICKLE", timeout=60)
        finally:
            scope._conn.close()

    async with simulate(SLOW_STAGE) as simulation:
        port = int(simulation.devices["stage"]["endpoint"].rpartition(":")[2])
        world, clock = simulation.world, simulation.clock

        await asyncio.to_thread(session, port)
        column = world.column.state(clock.now_ns())
        assert column.current_pa == pytest.approx(8.0)
        assert column.field_nm == pytest.approx(1000.0)
        assert column.optics.rotation_deg == pytest.approx(10.0)
        assert column.optics.focus_nm == pytest.approx(600.0)
        truth = world.image_truth(clock.now_ns())
        assert math.hypot(*truth.deflected_nm) == pytest.approx(math.hypot(20, 30))


async def test_a_beam_shift_beyond_the_limit_is_cut_without_a_word(http):
    words = {"column": {"shift_limit": "2000 nm"}, "specimen": SLOW_STAGE.specimen.model_dump()}
    async with http(simulator=SimulatorRig.model_validate(words)) as (_, session):
        async with session.put("/v1/beam_shift", json=[5e-6, -1e-6]) as response:
            assert response.status == 204
        async with session.get("/v1/beam_shift") as response:
            assert await response.json() == pytest.approx([2e-6, -1e-6])
        for wrong in ([1e-6], "far", [1e-6, None], {"x": 0}):
            async with session.put("/v1/beam_shift", json=wrong) as response:
                assert response.status == 500
                assert "beam_shift" in response.reason


async def test_stage_and_beam_share_one_server(http):
    async with http() as (simulation, _):
        assert simulation.devices["stage"]["endpoint"] == simulation.devices["beam"]["endpoint"]


async def test_only_axes_in_the_body_move_and_put_returns_at_once(http):
    async with http(simulator=SLOW_STAGE) as (simulation, session):
        world, clock = simulation.world, simulation.clock
        async with session.put("/v1/stage_position", json={"a": TILT_10, "c": 7}) as response:
            assert response.status == 204
            assert await response.read() == b""
        assert world.stage.is_moving(clock.now_ns())
        while world.stage.is_moving(clock.now_ns()):
            await asyncio.sleep(0.05)
        async with session.get("/v1/stage_position") as response:
            assert response.content_type == "application/json"
            position = await response.json()
        assert position["a"] == pytest.approx(TILT_10, abs=math.radians(0.02))
        assert [position[k] for k in "xyzb"] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", None, 404),
        ("GET", "/v2/version", None, 404),
        ("GET", "/v1/bogus", None, 404),
        ("PUT", "/v1/bogus", b"1", 404),
        ("PUT", "/v1/version", b'"3"', 404),
        ("PUT", "/v1/stage_position", b"", 500),
        ("PUT", "/v1/stage_position", b"\xff\xfe", 500),
        ("PUT", "/v1/stage_position", b"[1]", 500),
        ("PUT", "/v1/stage_position", b'{"a": "far"}', 500),
        ("PUT", "/v1/stage_position", b'{"a": NaN}', 500),
        ("PUT", "/v1/stage_position", b'{"a": 2.0}', 500),
        ("PUT", "/v1/stage_position", b'{"b": 0.1}', 500),
        ("PUT", "/v1/stage_position?method=JUMP", b'{"a": 0.1}', 500),
        ("PUT", "/v1/stage_position?speed=fast", b'{"a": 0.1}', 500),
        ("PUT", "/v1/stage_position?speed=0", b'{"a": 0.1}', 500),
        ("PUT", "/v1/stage_position?method=MOVE&speed=1", b'{"a": 0.1}', 500),
        ("PUT", "/v1/stage_position", b'{"a": 0.1' + b" " * 5000 + b"}", 500),
        ("PUT", "/v1/stage_position", b'{"a": 0.1' + b" " * 50_000 + b"}", 500),
        ("PUT", "/v1/beam_blanked", b"1", 500),
        ("PUT", "/v1/spot_size_index", b"2.5", 500),
        ("PUT", "/v1/spot_size_index", b"99", 500),
        ("PUT", "/v1/intensity", b"0", 500),
        ("PUT", "/v1/stem_magnification", b"-1", 500),
        ("POST", "/v1/beam_blanked", b"false", 501),
    ],
)
async def test_bad_requests_are_refused_and_change_nothing(http, method, path, body, status):
    async with http() as (simulation, session):
        async with session.request(method, path, data=body) as response:
            assert response.status == status
            assert "\n" not in (response.reason or "")
        async with session.get("/v1/stage_status") as response:
            assert await response.json() == "READY"
        now = simulation.clock.now_ns()
        assert simulation.world.column.state(now).blanked
        assert simulation.world.column.state(now).current_pa == pytest.approx(2.0)


def raw_exchange(port, request):
    """What comes back until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
    return answer


GET = b"GET /v1/stage_position HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT /v1/beam_blanked HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nfalse"


@pytest.mark.parametrize("fault", ["garbage", "short-frame", "wrong-length", "disconnect"])
async def test_answers_that_are_spoilt(http, fault):
    async with http() as (simulation, session):
        port = int(simulation.devices["stage"]["endpoint"].rpartition(":")[2])
        simulation.switch(parse_fault(f"stage:{fault}x2"))
        head, _, body = (await asyncio.to_thread(raw_exchange, port, GET)).partition(b"\r\n\r\n")
        announced = int(re.search(rb"Content-Length: (\d+)", head)[1])
        whole = head.startswith(b"HTTP/1.1 200 OK") and b"application/json" in head
        assert whole
        assert (announced == len(body)) == (fault in {"garbage", "short-frame"})
        with contextlib.suppress(UnicodeDecodeError):
            if fault == "wrong-length":
                assert set(json.loads(body)) == set("xyzab")
            else:
                with pytest.raises(json.JSONDecodeError):
                    json.loads(body)
        answer = await asyncio.to_thread(raw_exchange, port, PUT)
        ended = answer.endswith(b"\r\n\r\n")
        assert ended == (fault in {"short-frame", "wrong-length"})
        assert answer.startswith(b"HTTP/1.1 204") != (fault == "garbage")
        # It was carried out, whatever came back of it.
        assert not simulation.world.column.state(simulation.clock.now_ns()).blanked
        async with session.get("/v1/stage_position") as response:
            assert set(await response.json()) == set("xyzab")


async def test_hang_slow_and_error(http):
    async with http() as (simulation, session):
        simulation.switch(parse_fault("beam:hang"))
        waiting = asyncio.create_task(session.get("/v1/version"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        simulation.switch(parse_fault("beam:none"))
        assert (await waiting).status == 200
        simulation.switch(parse_fault("stage:slow=200 msx1"))
        started = time.monotonic()
        async with session.get("/v1/version") as response:
            assert response.status == 200
        assert time.monotonic() - started >= 0.2
        simulation.switch(parse_fault("stage:errorx1"))
        async with session.put("/v1/beam_blanked", json=False) as response:
            assert response.status == 500
            assert "instrument error" in response.reason
        assert simulation.world.column.state(simulation.clock.now_ns()).blanked


async def test_a_server_that_hangs_can_be_stopped(http):
    async with http() as (simulation, session):
        simulation.switch(parse_fault("stage:hang"))
        waiting = asyncio.create_task(session.get("/v1/version"))
        await asyncio.sleep(0.1)
    with contextlib.suppress(aiohttp.ClientError):
        await waiting


@pytest.mark.parametrize(
    "number", ["0.125", "300.0", "-1e-9", "7", "true", '"READY"', "{}", "null"]
)
def test_what_is_cut_short_is_no_json_any_more(number):
    cut = temscript_server._cut(number.encode())
    assert number.encode().startswith(cut)
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut)


async def test_bytes_that_are_no_http_do_no_harm(http):
    async with http() as (simulation, session):
        port = int(simulation.devices["stage"]["endpoint"].rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x00\x01\x02 hello\r\n\r\n")
        await asyncio.wait_for(reader.read(), 60)
        writer.close()
        await writer.wait_closed()
        async with session.get("/v1/version") as response:
            assert response.status == 200
