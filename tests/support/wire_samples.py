"""The decoders of every wire, valid messages for each, and what makes bad ones of them.

A row of `DECODERS` is all that a decoder needs to be tested with bad messages
(``protocols/test_fuzz.py``, ``campaign.py``). They are made from valid ones by cheap mutations, the
same ones in every run.
"""

import contextlib
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrotome.protocols.core import lz4
from pyrotome.protocols.core.bitshuffle import Bitshuffle
from pyrotome.protocols.core.chunk import BadChunk, Chunk
from pyrotome.protocols.core.errors import BadMessage
from pyrotome.protocols.core.lines import LineDecoder, StrictLineDecoder
from pyrotome.protocols.messages import control, tracking
from pyrotome.protocols.messages import credit_link as link
from pyrotome.protocols.messages import stream as messages
from pyrotome.protocols.messages.control import BadRequest
from pyrotome.protocols.wires import (
    impulse,
    instamatic,
    merlin,
    scpi,
    secop,
    simplon,
    simplon_stream,
    temscript,
)

TOKENS = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"\x00", b"\xff", b"\n", b"\r", b" ", b";",
    b"null", b"true", b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"-1e-999", b"9" * 20, b"9" * 400,
    b"\\ud800", b"\xed\xa0\x80", b"[" * 50, b'{"a":' * 50, b"MPX,", b"MPX,0000000005,", b"[200,",
    b"\x9f" * 20, b"\xd8\x28", b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00", b"?" * 40,
)  # fmt: skip
# Too large to be made a hundred thousand times.
NASTY = (
    b"",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\x81" * 100_000,
    b"\xd8\x28" * 50_000,
    b"\xbf" * 100_000,
    b"9" * 5_000,
    b"-" + b"9" * 309,
    b'"' + b"a" * 200_000,
    b"\n" * 100_000,
    b";" * 100_000,
    b"MPX," * 30_000,
    b"MPX,9999999999," * 5_000,
    b"\x00" * 100_000,
    bytes(range(256)) * 400,
)


@dataclass(frozen=True)
class Decoder:
    """One decoder: valid messages, of one or several parts, and how it takes a message.

    `take` raises one of `refuses` or returns; it asserts itself that what it accepts is what was
    sent. `count` is less where a message takes long.
    """

    seeds: Sequence[list[bytes]]
    take: Callable[[list[bytes], random.Random], object]
    refuses: tuple[type[Exception], ...]


def merlin_pixels(body: bytes | memoryview) -> tuple[merlin.FrameHeader, NDArray[Any]]:
    """Header and native-order copy of the pixels of a whole image; raises BadMessage."""
    header = merlin.parse_frame_header(body)
    if len(body) != header.body_bytes:
        raise BadMessage(f"image of {len(body)} bytes; its header says {header.body_bytes}")
    data = np.frombuffer(body, header.dtype, offset=header.data_offset)
    return header, data.reshape(header.shape).astype(header.dtype.newbyteorder("="))


def mutated(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    """A message that is like another one, or is not."""
    kind, size = int(rng.random() * 10), len(raw)
    at = int(rng.random() * (size + 1))
    match kind:
        case 0:
            return rng.randbytes(int(rng.random() * 60))
        case 1:
            return raw[:at]
        case 2:
            return raw[:at] + bytes((int(rng.random() * 256),)) + raw[at + 1 :]
        case 3:
            return raw[:at] + rng.randbytes(4) + raw[at + 4 :]
        case 4:
            return raw[:at] + raw[at + 1 + int(rng.random() * 8) :]
        case 5 | 6:
            token = TOKENS[int(rng.random() * len(TOKENS))]
            return raw[:at] + token + raw[at + (kind == 6) * len(token) :]
        case 7:
            return raw[:at] + other[int(rng.random() * (len(other) + 1)) :]
        case 8:
            return raw[at:] + raw[:at]
        case _:
            return raw


def bad_messages(
    seeds: Sequence[list[bytes]], rng: random.Random, count: int
) -> Iterator[list[bytes]]:
    """Messages of as many parts as the valid ones; now and then a part is missing or too much."""
    for number in range(count):
        parts = list(seeds[int(rng.random() * len(seeds))])
        other = seeds[int(rng.random() * len(seeds))]
        k = int(rng.random() * len(parts))
        parts[k] = mutated(parts[k], other[int(rng.random() * len(other))], rng)
        if number % 16 == 15:
            k = int(rng.random() * len(parts))
            parts[k:k] = [parts[0]] if number % 32 == 31 else []
            if number % 32 == 15:
                del parts[k]
        yield parts


def first(parts: list[bytes]) -> bytes:
    return parts[0] if parts else b""


def each(*parsers: Callable[[bytes], object]) -> Callable[[list[bytes], random.Random], object]:
    """Give a message to one of several parsers."""

    def take(parts: list[bytes], rng: random.Random) -> object:
        return parsers[int(rng.random() * len(parsers))](first(parts))

    return take


# Impulse


def take_sample(raw: bytes) -> None:
    units = {"temperatureMeasured": impulse.UnitConversion(1e300)}
    for sample in (impulse.parse_heat_sample(raw), impulse.parse_heat_sample(raw, units)):
        for name, _ in impulse.QUANTITIES.values():
            value = getattr(sample, name)
            assert value is None or math.isfinite(value)


def take_property(raw: bytes) -> None:
    information = impulse.PropertyInformation.parse(impulse.parse_reply(raw).data)
    impulse.unit_conversion("powerMeasured", information.unit)


def take_event(raw: bytes) -> None:
    event = impulse.parse_event(raw)
    assert impulse.message_shown(event) is None or impulse.message_shown(event)
    impulse.is_heat_finished(event)


IMPULSE = [
    [impulse.encode_request(impulse.start_ramp(350.0, 2.5))],
    [impulse.encode_reply(impulse.Reply(data={"properties": ["temperatureMeasured"]}))],
    [impulse.encode_reply(impulse.Reply(data=impulse.PropertyInformation("x", "mW").data()))],
    [
        impulse.encode_reply(
            impulse.Reply("invalidInput", {}, "no", (impulse.InputError("x", "y", "z"),))
        )
    ],
    [impulse.encode_heat_sample(impulse.HeatSample(7, 1.5, "2026", 20.1, 20.0, 1e-3, 1e-3))[1]],
    [impulse.encode_event(impulse.popup("hot"))[1]],
    [impulse.encode_event(impulse.heat_finished(3.0))[1]],
]

# temscript


def take_temscript(raw: bytes) -> None:
    value = temscript.parse_value(raw)
    for parse in (
        temscript.position_from_wire,
        temscript.target_from_wire,
        temscript.limits_from_wire,
        temscript.parse_version,
        lambda v: temscript.parse_number(v, "x"),
        lambda v: temscript.parse_flag(v, "x"),
    ):
        try:
            found = parse(value)
        except temscript.BadMessage:
            continue
        for number in vars(found).values() if hasattr(found, "__dict__") else ():
            assert math.isfinite(number)


TEMSCRIPT = [
    [
        temscript.encode_value(
            temscript.position_to_wire(temscript.StageCoordinates(1.0, 2.0, 3.0, 4.0))
        )
    ],
    [temscript.encode_value(temscript.limits_to_wire({"a_deg": (-30.0, 30.0)}))],
    [b'"2.1.0"'],
    [b"true"],
    [b"0.125"],
    [b'{"a": 0.1}'],
]

# Byte streams: the same comes out however they are split, and nothing that was not sent.


def split(raw: bytes, rng: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        end = at + 1 + int(rng.random() ** 2 * 2 * len(raw))
        yield raw[at:end]
        at = end


def fed(decoder: Any, pieces: Iterator[bytes] | list[bytes]) -> list[Any]:
    found: list[Any] = []
    for piece in pieces:
        found += decoder.feed(piece)
    return found


def take_mpx(parts: list[bytes], rng: random.Random) -> None:
    raw = b"".join(parts)
    replies = rng.random() < 0.5
    bodies = fed(merlin.MpxDecoder(replies=replies), [raw])
    assert bodies == fed(merlin.MpxDecoder(replies=replies), split(raw, rng)) or replies
    for body in bodies:
        # With `replies`, an end that leaves the comma uncounted is understood as well.
        assert merlin.frame(body) in raw or (replies and merlin.prefix(len(body) - 1) in raw)
        for parse in (merlin.parse_command, merlin.parse_reply, merlin.parse_acquisition_header):
            with_errors(parse, body, merlin.BadMessage)


def with_errors(parse: Callable[[Any], object], value: object, error: type[Exception]) -> None:
    with contextlib.suppress(error):
        parse(value)


MPX = [
    [merlin.encode_command(merlin.Command("SET", "ACQUISITIONTIME", "12.5"))],
    [merlin.encode_command(merlin.Command("CMD", "SOFTTRIGGER"))] * 3,
    [merlin.encode_reply(merlin.Reply("GET", "DETECTORSTATUS", 0, "1"))] * 2,
    [merlin.frame(merlin.encode_acquisition_header(merlin.AcquisitionHeader(10, 2, 12)))],
]

HEADER = merlin.FrameHeader(
    sequence=3, width=8, height=4, pixel_type="U16", counter_depth=12, shutter_s=0.01
)
IMAGE = merlin.encode_frame_header(HEADER) + bytes(64)


def take_image(raw: bytes) -> None:
    header, data = merlin_pixels(raw)
    assert len(raw) == header.data_offset + data.nbytes
    assert raw.endswith(data.astype(data.dtype.newbyteorder(">")).tobytes())


def take_scpi(parts: list[bytes], rng: random.Random) -> None:
    raw = b"".join(parts)
    lines = fed(LineDecoder(), [raw])
    assert lines == fed(LineDecoder(), split(raw, rng))
    for line in lines:
        assert line.encode("ascii") in raw
        for parse in (
            scpi.parse_program, scpi.parse_numbers, scpi.parse_error, scpi.parse_identity
        ):  # fmt: skip
            with_errors(parse, line, scpi.BadMessage)


SCPI = [
    [b":SOUR:CURR 1.0e-3;:READ?\n"],
    [b":SENS:FUNC 'VOLT';:FORM:ELEM VOLT,CURR;*OPC?\r"],
    [b"+1.000000E-01,+1.000000E-03,+9.91E+37\r\n"] * 2,
    [b'-113,"Undefined header;1;2026/01/01"\n'],
    [b"KEITHLEY INSTRUMENTS INC.,MODEL 2400,1234567,C30\n"],
]


def take_secop(parts: list[bytes], rng: random.Random) -> None:
    raw = b"".join(parts)
    lines = fed(StrictLineDecoder(secop.MAX_LINE_BYTES), [raw])
    assert lines == fed(StrictLineDecoder(secop.MAX_LINE_BYTES), split(raw, rng))
    for line in lines:
        assert line in raw
        with_errors(secop.parse_identity, line, secop.BadMessage)
        try:
            data = secop.parse_message(line).data
        except secop.BadMessage:
            continue
        for parse in (secop.parse_reading, secop.parse_status, secop.parse_description):
            with_errors(parse, data, secop.BadMessage)
        secop.parse_error(data)


DESCRIPTION = {
    "equipment_id": "x",
    "modules": {
        "T": {
            "interface_classes": ["Drivable"],
            "accessibles": {"value": {"datainfo": {"type": "double", "unit": "K"}}},
        }
    },
}
SECOP = [
    [b"reply T:value " + json.dumps(secop.encode_reading(298.3, 1.5)).encode() + b"\n"] * 2,
    [b'error_change T:target ["RangeError", "too hot", {}]\r\n'],
    [b"update T:status " + json.dumps([[300, "busy"], {"t": 1.0}]).encode() + b"\n"],
    [b"describing . " + json.dumps(DESCRIPTION).encode() + b"\n"],
    [b"ISSE&SINE2020,SECoP,V2019-09-16,v1.0\n", b"active\n", b"pong 1 [null, {}]\n"],
]


def take_instamatic(parts: list[bytes], rng: random.Random) -> None:
    raw = b"".join(parts)
    replies = rng.random() < 0.7
    try:
        values = fed(instamatic.JsonDecoder(replies=replies), [raw])
    except instamatic.BadMessage:
        values = []
    for value in values:
        with_errors(instamatic.parse_reply, value, instamatic.BadMessage)
        with_errors(instamatic.parse_call, value, instamatic.BadMessage)
        answer = value[1] if isinstance(value, list) and len(value) > 1 else value
        for parse in (instamatic.parse_position, instamatic.parse_magnifications):
            with_errors(parse, answer, instamatic.BadMessage)
        with_errors(lambda v: instamatic.parse_number(v, "x"), answer, instamatic.BadMessage)


INSTAMATIC = [
    [instamatic.encode_call(instamatic.Call("setStagePosition", [], {"a": 1.5, "wait": False}))],
    [instamatic.encode_reply(instamatic.Reply(200, [-2189, -12404, 4792, 0.0, -27.0]))] * 2,
    [instamatic.encode_reply(instamatic.Reply(500, ["TEMValueError", ["no"]]))],
    [instamatic.encode_reply(instamatic.Reply(200, {"mag1": [100, 200]}))],
    [instamatic.encode_reply(instamatic.Reply(200, None))],
]

# SIMPLON


def frame(dtype: str = "uint16") -> np.ndarray[Any, Any]:
    # Larger than one block of bitshuffle, with a rest.
    return np.random.default_rng(1).poisson(3, (61, 83)).astype(dtype)


FRAME = frame()
CHUNK = bytes(Bitshuffle().compress(FRAME))
PIXELS = [
    simplon_stream.Pixels(FRAME.shape, "uint16", "bslz4", CHUNK),
    simplon_stream.Pixels((4, 6), "uint32", "none", bytes(96)),
    simplon_stream.Pixels((16, 16), "uint8", "lz4", lz4.compress_block(bytes(256))),
]


def images(form: str) -> list[list[bytes]]:
    found: list[list[bytes]] = []
    for k, pixels in enumerate(PIXELS):
        image = simplon_stream.Image(1, k, {"": pixels}, 1, 2, 3)
        if form == "v1":
            parts = simplon_stream.encode_image_v1(image, b"appendix" if k == 1 else None)
        elif pixels.compression != "lz4":
            parts = simplon_stream.encode_image_v2(image, "abc")
        else:
            continue
        found.append([bytes(part) for part in parts])
    return found


SENT = {bytes(pixels.raw) for pixels in PIXELS}


def take_stream(parts: list[bytes], rng: random.Random) -> None:
    simplon_stream.resembles_image(parts or [b""])
    message = simplon_stream.parse(parts)
    if not isinstance(message, simplon_stream.Image):
        return
    intact = message.intact()
    for pixels in message.channels.values():
        raw = bytes(pixels.raw)
        assert any(raw in part for part in parts)
        if message.md5 and intact and message.md5 in HASHES:
            assert raw in SENT
        if rng.random() < 0.1:
            with_errors(simplon_stream.Pixels.chunk, pixels, simplon.BadMessage)
        if pixels.frame_bytes < 1_000_000:
            assert pixels.array().nbytes == pixels.frame_bytes


HASHES = {simplon_stream.md5_of(raw) for raw in SENT}
CONFIG = {"count_time": 0.5, "nimages": 3, "x_pixels_in_detector": 512, "note": "µ"}
STREAM_V1 = [
    *images("v1"),
    *[[bytes(p) for p in m] for m in simplon_stream.encode_start_v1(1, CONFIG)],
    *[[bytes(p) for p in m] for m in simplon_stream.encode_start_v1(1, None)],
    [bytes(p) for p in simplon_stream.encode_end_v1(1)],
]
STREAM_V2 = [
    *images("v2"),
    [bytes(p) for p in simplon_stream.encode_start_v2(1, "abc", CONFIG)],
    [bytes(p) for p in simplon_stream.encode_end_v2(1, "abc")],
]
REST = [
    [simplon.encode_parameter(simplon.Parameter(0.5, "float", min=1e-6, max=10.0, unit="s"))],
    [
        simplon.encode_parameter(
            simplon.Parameter("ints", "string", allowed_values=("ints", "exts"))
        )
    ],
    [simplon.encode_setting(1.5)],
    [simplon.encode_changed(["count_time", "frame_time"])],
    [simplon.encode_series(34)],
]

# Chunks


def take_chunk(parts: list[bytes], _: random.Random) -> None:
    chunk = Chunk(FRAME.shape, "uint16", first(parts))
    chunk.check()
    assert chunk.decompress().nbytes == FRAME.nbytes


def take_lz4(parts: list[bytes], rng: random.Random) -> None:
    undo = lz4.decompress_block if rng.random() < 0.5 else lz4.decompress_hdf5
    assert undo(first(parts), 256).nbytes == 256


LZ4_DATA = bytes(range(64)) * 4

# Our own streams


def take_message(parts: list[bytes], _: random.Random) -> None:
    message = messages.parse(parts)
    assert list(message.payload) == parts[2:]
    chunk = messages.chunk_of(message)
    if chunk is None:
        array = messages.array_of(message)
        assert array.tobytes() == parts[2]
    else:
        chunk.check()


def stream_message(**header: Any) -> list[bytes]:
    body = {"type": "frame", "run": "r", "seq": 1, "t_ns": 5, **header}
    return [bytes(p) for p in messages.Message("frame/merlin", body, (bytes(48),)).parts()]


MESSAGES = [
    stream_message(shape=[4, 6], dtype="uint16"),
    stream_message(shape=[2, 6], dtype="float32"),
    [*stream_message(shape=[61, 83], dtype="uint16", encoding="bslz4")[:2], CHUNK],
]


def take_upstream(parts: list[bytes], _: random.Random) -> None:
    kind, body, payload = link.parse_upstream(parts)
    assert kind.encode() == parts[0]
    assert isinstance(body, dict)
    assert payload == parts[2:]


UPSTREAM = [
    [bytes(p) for p in link.upstream("credit", {"frames": 5})],
    [bytes(p) for p in link.upstream("result", {"name": "x", "shape": [2]}, [bytes(8)])],
]

TRACKING = [
    [
        b'{"kind":"series","series":"series_001","visits":[{"tilt_deg":-40.0,"t_ns":1}]}',
        b'{"kind":"frame","t_ns":5,"series":"s","index":3,"scan":"scout","tilt_deg":-38.0,'
        b'"field_nm":1065.0,"dose_e_per_nm2":0.02,"shift_nm":[1.5,-2.0]}',
        b'{"kind":"move","t_ns":7,"moved_nm":[0.0,0.0,-900.0],"error_nm":[0.0,0.0,150.0]}',
        b'{"kind":"measured","t_ns":5,"series":"s","index":3,"scan":"frame","tilt_deg":2.0,'
        b'"offset_nm":[3.0,4.0],"sd_nm":[0.5,0.5],"doubt":"","slip":0.1}',
    ]
]


CONTROL = [
    [b'{"verb": "status"}'],
    [json.dumps({"verb": "submit", "recipe": "a: 1", "name": "r.yaml", "output": None}).encode()],
]

DECODERS: dict[str, Decoder] = {
    "impulse control": Decoder(
        IMPULSE,
        each(impulse.parse_request, impulse.parse_reply, take_property),
        (impulse.BadMessage,),
    ),
    "impulse data": Decoder(IMPULSE[4:], each(take_sample, take_event), (impulse.BadMessage,)),
    "temscript": Decoder(TEMSCRIPT, each(take_temscript), (temscript.BadMessage,)),
    "merlin stream": Decoder(MPX, take_mpx, ()),
    "merlin image": Decoder([[IMAGE]], each(take_image), (merlin.BadMessage,)),
    "scpi": Decoder(SCPI, take_scpi, ()),
    "secop": Decoder(SECOP, take_secop, ()),
    "instamatic": Decoder(INSTAMATIC, take_instamatic, ()),
    "simplon rest": Decoder(
        REST,
        each(
            simplon.parse_parameter,
            simplon.parse_setting,
            simplon.parse_changed,
            simplon.parse_series,
        ),
        (simplon.BadMessage,),
    ),
    "simplon stream v1": Decoder(STREAM_V1, take_stream, (simplon.BadMessage,)),
    "simplon stream v2": Decoder(STREAM_V2, take_stream, (simplon.BadMessage,)),
    "chunk": Decoder([[CHUNK]], take_chunk, (BadChunk,)),
    "lz4": Decoder(
        [[lz4.compress_block(LZ4_DATA)], [lz4.compress_hdf5(LZ4_DATA)]], take_lz4, (lz4.BadBlock,)
    ),
    "stream messages": Decoder(MESSAGES, take_message, (messages.BadMessage, BadChunk)),
    "link": Decoder(UPSTREAM, take_upstream, (messages.BadMessage,)),
    "control": Decoder(CONTROL, each(control.parse_request), (BadRequest,)),
    "tracking": Decoder(TRACKING, each(tracking.parse_tracking), (BadMessage,)),
}
