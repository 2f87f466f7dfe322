"""The Merlin codec: any split of the stream, any garbage before it, every pixel type."""

import contextlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from wire_samples import merlin_pixels

from pyrotome.protocols.wires import merlin
from pyrotome.protocols.wires.merlin import (
    AcquisitionHeader,
    BadMessage,
    Command,
    FrameHeader,
    MpxDecoder,
    Reply,
)

names = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=30)
values = st.text("abcXYZ0189.-_/", min_size=1, max_size=30)
commands = st.one_of(
    st.builds(Command, st.sampled_from(["GET", "CMD"]), names),
    st.builds(Command, st.just("SET"), names, values),
)
replies = st.one_of(
    st.builds(Reply, st.just("GET"), names, st.integers(0, 9), values),
    st.builds(Reply, st.sampled_from(["SET", "CMD"]), names, st.integers(0, 9)),
)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_attested_bytes():
    wire = {
        Command("GET", "SOFTWAREVERSION"): b"MPX,0000000020,GET,SOFTWAREVERSION",
        Command("SET", "NUMFRAMESTOACQUIRE", "16"): b"MPX,0000000026,SET,NUMFRAMESTOACQUIRE,16",
        Command("CMD", "STARTACQUISITION"): b"MPX,0000000021,CMD,STARTACQUISITION",
        Command("CMD", "SOFTTRIGGER"): b"MPX,0000000016,CMD,SOFTTRIGGER",
        Command("GET", "DETECTORSTATUS"): b"MPX,0000000019,GET,DETECTORSTATUS",
    }
    for command, raw in wire.items():
        assert merlin.encode_command(command) == raw
    reply = Reply("GET", "DETECTORSTATUS", 0, "0")
    assert merlin.encode_reply(reply) == b"MPX,0000000023,GET,DETECTORSTATUS,0,0"
    assert (
        merlin.encode_reply(Reply("SET", "NUMFRAMESTOACQUIRE"))
        == b"MPX,0000000025,SET,NUMFRAMESTOACQUIRE,0"
    )
    assert merlin.prefix(131_456) == b"MPX,0000131457,"
    assert [merlin.header_bytes(chips) for chips in (1, 4)] == [384, 768]


@given(commands)
def test_command_round_trip(command):
    (body,) = MpxDecoder().feed(merlin.encode_command(command))
    assert merlin.parse_command(body) == command


def test_field_that_some_clients_add_is_dropped():
    assert merlin.parse_command(b"GET,IMAGEX,0") == Command("GET", "IMAGEX")
    assert merlin.parse_command(b"cmd,SoftTrigger,0") == Command("CMD", "SOFTTRIGGER")


@given(replies)
def test_reply_round_trip(reply):
    (body,) = MpxDecoder(replies=True).feed(merlin.encode_reply(reply))
    assert merlin.parse_reply(body) == reply


@given(st.lists(replies, min_size=1), st.lists(st.integers(0, 10_000)), st.lists(st.booleans()))
def test_replies_with_and_without_the_comma_counted(sent, cuts, short):
    """LiberTEM-live's simulator leaves the comma uncounted (wire card C2)."""
    raw = b""
    for index, reply in enumerate(sent):
        body = merlin.encode_reply(reply)[merlin.PREFIX_BYTES :]
        uncounted = index < len(short) and short[index]
        raw += merlin.prefix(len(body) - uncounted) + body
    decoder = MpxDecoder(replies=True)
    bodies = [body for piece in in_pieces(raw, cuts) for body in decoder.feed(piece)]
    assert [merlin.parse_reply(body) for body in bodies] == sent
    assert decoder.skipped_bytes == 0


@given(st.lists(commands, min_size=1), st.lists(st.booleans()))
def test_commands_with_and_without_the_comma_counted(sent, short):
    """Each comes whole, as clients send them."""
    decoder = MpxDecoder(commands=True)
    got = []
    for index, command in enumerate(sent):
        body = merlin.encode_command(command)[merlin.PREFIX_BYTES :]
        uncounted = index < len(short) and short[index] and body[-1:].isalnum()
        uncounted = uncounted and not body.endswith(b"M")  # as the next prefix begins
        got += decoder.feed(merlin.prefix(len(body) - uncounted) + body)
    assert [merlin.parse_command(body) for body in got] == sent
    assert decoder.skipped_bytes == 0


@given(st.lists(commands, min_size=1), st.lists(st.integers(0, 10_000)))
def test_commands_in_any_pieces(sent, cuts):
    raw = b"".join(merlin.encode_command(command) for command in sent)
    decoder = MpxDecoder(commands=True)
    got = [body for piece in in_pieces(raw, cuts) for body in decoder.feed(piece)]
    assert [merlin.parse_command(body) for body in got] == sent


def test_line_ends_that_some_clients_add():
    raw = b"".join(merlin.encode_command(Command("GET", "IMAGEX")) + end for end in (b"\r\n", b""))
    decoder = MpxDecoder(commands=True)
    assert [merlin.parse_command(body) for body in decoder.feed(raw)] == [
        Command("GET", "IMAGEX")
    ] * 2


def test_frame_number_of_more_than_six_digits():
    header = FrameHeader(12_345_678, 8, 8)
    raw = merlin.encode_frame_header(header)
    assert merlin.parse_frame_header(raw) == header


@given(
    st.lists(st.binary(max_size=300), max_size=8),
    st.binary(max_size=200).filter(lambda g: merlin.MAGIC not in g),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_any_split_and_any_garbage_before(bodies, garbage, cuts):
    raw = garbage + b"".join(merlin.frame(body) for body in bodies)
    decoder = MpxDecoder()
    got = [body for piece in in_pieces(raw, cuts) for body in decoder.feed(piece)]
    assert got == bodies
    if bodies:
        assert decoder.skipped_bytes == len(garbage)
        assert decoder.buffered_bytes == 0


@given(st.lists(st.binary(max_size=500), max_size=30))
def test_memory_is_bounded_whatever_comes(pieces):
    decoder = MpxDecoder(max_body_bytes=64)
    for piece in pieces:
        decoder.feed(piece)
        assert decoder.buffered_bytes <= merlin.PREFIX_BYTES + 64 + 1


@pytest.mark.parametrize(
    "lie", [b"MPX,9999999999,", b"MPX,0000000000,", b"MPX,00000x0001,", b"MPX,MPX,"]
)
def test_prefix_that_is_none_is_skipped(lie):
    decoder = MpxDecoder()
    assert decoder.feed(lie + merlin.frame(b"CMD,ABORT,0")) == [b"CMD,ABORT,0"]


def test_body_one_short_costs_no_later_body():
    raw = merlin.prefix(2) + b"abc" + merlin.frame(b"def")
    assert MpxDecoder().feed(raw) == [b"ab", b"def"]


@given(
    st.integers(0, 10**6),
    st.integers(1, 1000),
    st.sampled_from([1, 6, 12, 24]),
    st.dictionaries(values, values),
)
def test_acquisition_header_round_trip(frames, per_trigger, depth, fields):
    header = AcquisitionHeader(frames, per_trigger, depth, fields)
    assert merlin.parse_acquisition_header(merlin.encode_acquisition_header(header)) == header


frame_headers = st.builds(
    FrameHeader,
    sequence=st.integers(1, 999_999),
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
    pixel_type=st.sampled_from(["U08", "U16", "U32"]),
    counter_depth=st.sampled_from([1, 6, 12, 24]),
    layout=st.sampled_from(["1x1", "2x2", "Nx1", "2x2G"]),
    shutter_s=st.integers(0, 10**8).map(lambda us: us * 1e-6),
    timestamp=st.just("2026-01-01 00:00:00.000000"),
)


@given(frame_headers, st.sampled_from([1, 4]))
def test_frame_header_round_trip(header, chips):
    header = replace(header, chips=chips, data_offset=merlin.header_bytes(chips))
    raw = merlin.encode_frame_header(header)
    assert len(raw) == header.data_offset == merlin.parse_data_offset(raw)
    back = merlin.parse_frame_header(raw)
    assert back.shutter_s == pytest.approx(header.shutter_s, abs=1e-12)
    assert back.shape == (header.height, header.width)
    assert replace(back, shutter_s=header.shutter_s) == header


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.uint32]), hnp.array_shapes(min_dims=2, max_dims=2)
    )
)
def test_pixels_round_trip_exactly(data):
    depth = {1: 6, 2: 12, 4: 24}[data.itemsize]
    pixel_type = merlin.PIXEL_TYPES[depth]
    header = FrameHeader(1, data.shape[1], data.shape[0], pixel_type, depth)
    body = merlin.encode_frame_header(header) + merlin.pixels_to_wire(data, pixel_type)
    assert len(body) == header.body_bytes
    back, pixels = merlin_pixels(body)
    assert back == header
    assert pixels.dtype == data.dtype
    np.testing.assert_array_equal(pixels, data)


def test_pixels_are_big_endian():
    assert merlin.pixels_to_wire(np.array([[258]], np.uint16), "U16") == b"\x01\x02"


@given(st.binary(max_size=600))
def test_garbage_is_bad_message_and_nothing_else(raw):
    for start in (b"", b"MQ1,000001,00384,", b"HDR,"):
        for parse in (
            merlin.parse_command,
            merlin.parse_reply,
            merlin.parse_acquisition_header,
            merlin.parse_frame_header,
            merlin_pixels,
        ):
            with contextlib.suppress(BadMessage):
                parse(start + raw)


def test_pixel_types_that_are_no_whole_bytes_are_refused():
    raw = merlin.encode_frame_header(FrameHeader(1, 8, 8)).replace(b"U16", b"R64")
    with pytest.raises(BadMessage, match="R64"):
        merlin.parse_frame_header(raw)
