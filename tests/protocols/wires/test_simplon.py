"""The SIMPLON codecs: control and both formats of the stream, there and back, and on garbage."""

import contextlib
import hashlib
import json
import struct

import cbor2
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyrotome.protocols.core import lz4
from pyrotome.protocols.core.bitshuffle import Bitshuffle
from pyrotome.protocols.wires import simplon, simplon_v1
from pyrotome.protocols.wires import simplon_stream as stream
from pyrotome.protocols.wires.simplon import BadMessage, Parameter
from pyrotome.protocols.wires.simplon_stream import (
    Image,
    Pixels,
    SeriesConfig,
    SeriesEnd,
    SeriesStart,
)

names = st.text("abcdefghijklmnopqrstuvwxyz_/", min_size=1, max_size=30)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
)
frames = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16, np.uint32]),
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=80),
    elements=st.integers(0, 255),
)


def pixels_of(data: np.ndarray, compression: str) -> Pixels:
    raw = {
        "none": data.tobytes,
        "lz4": lambda: lz4.compress_block(data.tobytes()),
        "lz4-hdf5": lambda: lz4.compress_hdf5(data.tobytes()),
        "bslz4": lambda: Bitshuffle().compress(data).tobytes(),
    }[compression]()
    return Pixels(data.shape, data.dtype.name, compression, raw)


def same(found: Pixels, data: np.ndarray) -> None:
    back = found.array()
    assert back.dtype == data.dtype.newbyteorder("<")
    np.testing.assert_array_equal(back, data)
    if found.compression == "bslz4":
        chunk = found.chunk()
        assert (chunk.shape, chunk.dtype) == (data.shape, data.dtype.name)
        np.testing.assert_array_equal(chunk.decompress(), data)
    else:
        assert found.chunk() is None


# Control


def test_paths():
    path = simplon.path("detector", "config", "count_time")
    assert path == "/detector/api/1.8.0/config/count_time"
    assert simplon.split_path(path) == ("detector", "config", "count_time")
    assert simplon.split_path("/detector/api/1.8.0/config/threshold/1/energy")[2] == (
        "threshold/1/energy"
    )
    assert simplon.split_path("/stream/api/1.8.0/config/") == ("stream", "config", "")
    for other in ("/detector/api/1.6.0/config/x", "/detector/api/version", "/", ""):
        with pytest.raises(BadMessage):
            simplon.split_path(other)


@given(
    values,
    st.sampled_from(["rw", "r", None]),
    st.one_of(st.none(), st.floats(-1e9, 1e9)),
    st.one_of(st.none(), st.lists(st.text(max_size=5), max_size=3).map(tuple)),
)
def test_parameter_round_trip(value, access, low, allowed):
    parameter = Parameter(value, "float", access, "s", low, None, allowed)
    assert simplon.parse_parameter(simplon.encode_parameter(parameter)) == parameter
    assert parameter.writable == (access == "rw")


def test_attested_parameter():
    raw = (
        b'{"access_mode":"rw","max":3600.0,"min":5e-08,"unit":"s","value":0.0009999,'
        b'"value_type":"float"}'
    )
    assert simplon.parse_parameter(raw) == Parameter(0.0009999, "float", "rw", "s", 5e-8, 3600.0)


@given(values)
def test_setting_round_trip(value):
    assert simplon.parse_setting(simplon.encode_setting(value)) == value


@given(st.lists(names))
def test_changed_names_round_trip(changed):
    assert simplon.parse_changed(simplon.encode_changed(changed)) == tuple(changed)


def test_a_put_may_be_answered_by_nothing():
    assert simplon.parse_changed(b"") == ()
    assert simplon.parse_changed(b"\r\n") == ()


@pytest.mark.parametrize("raw", [b'{"sequence id": 34}', b'{"sequence_id": 34}\n'])
def test_both_spellings_of_the_series(raw):
    assert simplon.parse_series(raw) == 34


def test_series_as_it_is_on_the_wire():
    assert json.loads(simplon.encode_series(7)) == {"sequence id": 7}


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_garbage_is_bad_message_and_nothing_else(raw):
    for start in (b"", b"{", b'{"value":', b"[", b'{"sequence id":'):
        for parse in (
            simplon.parse_parameter,
            simplon.parse_setting,
            simplon.parse_changed,
            simplon.parse_series,
        ):
            with contextlib.suppress(BadMessage):
                parse(start + raw)


@pytest.mark.parametrize(
    "raw", [b"[" * 100_000, b'{"value": 1e999}', b'{"value":%s}' % (b"9" * 5000)]
)
def test_json_that_strains_the_parser(raw):
    with contextlib.suppress(BadMessage):
        simplon.parse_parameter(raw)
    with pytest.raises(BadMessage):
        simplon.parse_parameter(b" " * (simplon.MAX_BODY_BYTES + 1))


# Stream


@given(frames, st.sampled_from(["none", "lz4", "bslz4"]), st.integers(0, 10**6))
def test_image_of_the_older_format_round_trip(data, compression, frame):
    image = Image(5, frame, {"": pixels_of(data, compression)}, 10, 30, 20)
    parts = stream.encode_image_v1(image)
    found = stream.parse(parts)
    assert (found.series, found.frame) == (5, frame)
    assert (found.start_ns, found.stop_ns, found.real_ns) == (10, 30, 20)
    assert found.intact()
    same(found.channels[""], data)


@given(frames, st.sampled_from(["none", "lz4-hdf5", "bslz4"]), st.integers(0, 10**6))
def test_image_of_the_newer_format_round_trip(data, compression, frame):
    image = Image(5, frame, {"threshold_1": pixels_of(data, compression)}, 10, 30, 20)
    (part,) = stream.encode_image_v2(image, "unique")
    found = stream.parse([part])
    assert (found.series, found.frame, list(found.channels)) == (5, frame, ["threshold_1"])
    assert (found.start_ns, found.stop_ns, found.real_ns) == (10, 30, 20)
    same(found.channels["threshold_1"], data)


def test_attested_parts_of_an_image():
    data = np.arange(8, dtype=np.uint16).reshape(2, 4)
    head, described, raw, times = stream.encode_image_v1(
        Image(34, 0, {"": pixels_of(data, "none")})
    )
    assert json.loads(head) == {
        "htype": "dimage-1.0",
        "series": 34,
        "frame": 0,
        "hash": hashlib.md5(data.tobytes()).hexdigest(),
    }
    assert json.loads(described) == {
        "htype": "dimage_d-1.0",
        "shape": [4, 2],  # x first
        "type": "uint16",
        "encoding": "<",
        "size": 16,
    }
    assert raw == data.tobytes()
    assert set(json.loads(times)) == {"htype", "start_time", "stop_time", "real_time"}


@pytest.mark.parametrize(
    ("dtype", "compression", "encoding"),
    [
        ("uint8", "bslz4", "bs8-lz4<"),
        ("uint16", "bslz4", "bs16-lz4<"),
        ("uint32", "bslz4", "bs32-lz4<"),
        ("uint32", "lz4", "lz4<"),
        ("uint16", "none", "<"),
    ],
)
def test_encodings(dtype, compression, encoding):
    data = np.arange(4096, dtype=dtype).reshape(64, 64)
    parts = stream.encode_image_v1(Image(1, 0, {"": pixels_of(data, compression)}))
    assert json.loads(parts[1])["encoding"] == encoding
    # Some ends leave the hyphen out.
    parts[1] = parts[1].replace(b"-lz4", b"lz4")
    same(stream.parse(parts).channels[""], data)


def test_a_compressed_frame_is_a_chunk_of_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    data = np.random.default_rng(1).poisson(3, (64, 96)).astype(np.uint16)
    parts = stream.encode_image_v1(Image(1, 0, {"": pixels_of(data, "bslz4")}))
    chunk = stream.parse(parts).channels[""].chunk()
    with h5py.File(tmp_path / "c.h5", "w") as file:
        dataset = file.create_dataset(
            "d", (1, 64, 96), "<u2", chunks=(1, 64, 96), **hdf5plugin.Bitshuffle(0, "lz4")
        )
        dataset.id.write_direct_chunk((0, 0, 0), chunk.raw)
        np.testing.assert_array_equal(dataset[0], data)


def test_empty_chunk_header_is_filled_in():
    """LiberTEM's mocked frames have one."""
    data = np.random.default_rng(1).poisson(3, (64, 96)).astype(np.uint16)
    pixels = pixels_of(data, "bslz4")
    empty = Pixels(pixels.shape, pixels.dtype, "bslz4", bytes(12) + pixels.raw[12:])
    assert empty.chunk().raw == pixels.raw
    same(empty, data)


@pytest.mark.parametrize("compression", ["none", "lz4", "bslz4"])
def test_big_endian_pixels(compression):
    data = np.arange(600, dtype=np.uint16).reshape(20, 30)
    other = pixels_of(data.astype(">u2").view(np.uint16), compression)
    pixels = Pixels(other.shape, other.dtype, compression, other.raw, big_endian=True)
    parts = stream.encode_image_v1(Image(1, 0, {"": pixels}))
    found = stream.parse(parts).channels[""]
    assert found.big_endian
    assert found.chunk() is None
    np.testing.assert_array_equal(found.array(), data)


@pytest.mark.parametrize("apart", [False, True])
def test_start_in_one_message_or_two(apart):
    messages = stream.encode_start_v1(3, {"nimages": 2}, apart=apart, appendix=b"mine")
    found = [stream.parse(parts) for parts in messages[:2]]
    if apart:
        assert found == [SeriesStart(3), SeriesConfig({"nimages": 2})]
    else:
        assert found == [SeriesStart(3, {"nimages": 2})]
    (none,) = stream.encode_start_v1(3, None)
    assert json.loads(none[0])["header_detail"] == "none"
    assert stream.parse(none) == SeriesStart(3)


def test_detailed_start_and_appendices_are_taken():
    head = {"htype": "dheader-1.0", "series": 3, "header_detail": "all"}
    tables = [b'{"htype":"dflatfield-1.0"}', bytes(64)] * 3
    parts = [json.dumps(head).encode(), b'{"nimages":2}', *tables, b"appendix"]
    assert stream.parse(parts) == SeriesStart(3, {"nimages": 2})
    data = np.zeros((8, 8), np.uint16)
    image = stream.encode_image_v1(Image(1, 0, {"": pixels_of(data, "none")}), b"appendix")
    assert len(image) == 5
    same(stream.parse(image).channels[""], data)


def test_starts_and_ends_of_the_newer_format():
    (start,) = stream.encode_start_v2(3, "u", {"number_of_images": 2, "channels": ["a"]})
    found = stream.parse([start])
    assert found.series == 3
    assert found.config["number_of_images"] == 2
    assert stream.parse(stream.encode_end_v2(3, "u")) == SeriesEnd(3)
    assert stream.parse([b"\xd9\xd9\xf7" + start]).series == 3  # says that it is CBOR
    assert stream.parse(stream.encode_end_v1(3)) == SeriesEnd(3)


def test_parts_as_they_lie_in_the_socket():
    data = np.zeros((8, 8), np.uint16)
    for parts in (
        stream.encode_image_v1(Image(1, 0, {"": pixels_of(data, "bslz4")})),
        stream.encode_image_v2(Image(1, 0, {"": pixels_of(data, "bslz4")}), "u"),
    ):
        same(stream.parse([memoryview(part) for part in parts]).channels[""], data)


def test_hash_that_is_of_something_else():
    data = np.zeros((8, 8), np.uint16)
    assert not Image(1, 0, {"": pixels_of(data, "none")}, md5="0" * 32).intact()
    assert Image(1, 0, {"": pixels_of(data, "none")}).intact()


@pytest.mark.parametrize("compression", ["none", "lz4", "lz4-hdf5", "bslz4"])
def test_frame_whose_end_is_missing(compression):
    data = np.random.default_rng(1).integers(0, 60_000, (64, 64), np.uint16)
    pixels = pixels_of(data, compression)
    for cut in (0, 1, 11, len(pixels.raw) // 2, len(pixels.raw) - 1):
        short = Pixels(pixels.shape, pixels.dtype, compression, pixels.raw[:cut])
        with pytest.raises(BadMessage):
            short.chunk()
            short.array()


@pytest.mark.parametrize("compression", ["none", "lz4", "lz4-hdf5", "bslz4"])
@pytest.mark.parametrize("shape", [(64, 128), (32, 64), (1, 1)])
def test_frame_of_another_shape_than_it_says(compression, shape):
    pixels = pixels_of(np.ones((64, 64), np.uint16), compression)
    with pytest.raises(BadMessage):
        Pixels(shape, pixels.dtype, compression, pixels.raw).array()


@given(st.data())
@settings(max_examples=200)
def test_a_changed_byte_is_told_or_a_frame(data):
    """Of the frame's size, never a crash and never another exception."""
    frame = np.random.default_rng(1).poisson(3, (32, 48)).astype(np.uint16)
    compression = data.draw(st.sampled_from(["none", "lz4", "lz4-hdf5", "bslz4"]))
    pixels = pixels_of(frame, compression)
    raw = bytearray(pixels.raw)
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    changed = Pixels(pixels.shape, pixels.dtype, compression, bytes(raw))
    with contextlib.suppress(BadMessage):
        changed.chunk()
        assert changed.array().shape == (32, 48)


@given(st.data())
@settings(max_examples=300)
def test_a_changed_message_is_bad_or_a_message(data):
    frame = np.ones((4, 8), np.uint16)
    message = data.draw(
        st.sampled_from(
            [
                stream.encode_image_v1(Image(1, 2, {"": pixels_of(frame, "bslz4")})),
                stream.encode_image_v2(Image(1, 2, {"a": pixels_of(frame, "bslz4")}), "u"),
                stream.encode_start_v1(1, {"nimages": 2})[0],
                stream.encode_start_v2(1, "u", {"channels": ["a"]}),
                stream.encode_end_v2(1, "u"),
            ]
        )
    )
    parts = [bytearray(part) for part in message]
    part = parts[data.draw(st.integers(0, len(parts) - 1))]
    start = data.draw(st.integers(0, len(part)))
    part[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=8))
    with contextlib.suppress(BadMessage):
        found = stream.parse([bytes(part) for part in parts])
        if isinstance(found, Image):
            for pixels in found.channels.values():
                assert pixels.array().shape == pixels.shape


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_bad_message(parts):
    for start in (b"", b"{", b'{"htype":"dimage-1.0"', b"\xa3", b"\xd9\xd9\xf7", b"\xa1dtype"):
        with contextlib.suppress(BadMessage):
            stream.parse([start + (parts[0] if parts else b""), *parts[1:]])


@pytest.mark.parametrize(
    "raw",
    [
        b"\xa1" * 100_000,  # nested without end
        b"\xa1\x64type\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",  # a string of eight exabytes
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
        cbor2.dumps({"type": "image", "series_id": 1, "image_id": 0, "data": {"a": 1}}),
        cbor2.dumps({"type": "image", "series_id": -1}),
        cbor2.dumps({"type": "noise", "series_id": 1}),
    ],
)
def test_cbor_that_strains_the_parser(raw):
    with pytest.raises(BadMessage):
        stream.parse([raw])


def test_what_is_too_large_is_refused_unread():
    data = np.zeros((8, 8), np.uint16)
    parts = stream.encode_image_v1(Image(1, 0, {"": pixels_of(data, "none")}))
    parts[1] = parts[1].replace(b"[8,8]", b"[65536,65536]")
    with pytest.raises(BadMessage, match="65536"):
        stream.parse(parts)
    with pytest.raises(BadMessage, match="parts"):
        stream.parse([b"{}"] * 1000)
    with pytest.raises(BadMessage, match="bytes"):
        stream.parse([b"{" + b" " * simplon_v1.MAX_JSON_BYTES])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"uint16"', b'"float32"'),
        (b'"uint16"', b"[1]"),
        (b'"size":128', b'"size":129'),
        (b'"size":128', b'"size":"128"'),
        (b'"encoding":"<"', b'"encoding":"bs32-lz4<"'),
        (b'"encoding":"<"', b'"encoding":"bs16<"'),
        (b'"encoding":"<"', b'"encoding":"zip"'),
        (b"[8,8]", b"[8,8,1]"),
        (b"[8,8]", b"[8,0]"),
        (b"[8,8]", b"[true,8]"),
    ],
)
def test_descriptions_that_make_no_sense(before, after):
    parts = stream.encode_image_v1(
        Image(1, 0, {"": pixels_of(np.zeros((8, 8), np.uint16), "none")})
    )
    assert before in parts[1]
    parts[1] = parts[1].replace(before, after)
    with pytest.raises(BadMessage):
        stream.parse(parts)


def test_damaged_images_are_told_from_noise():
    data = np.zeros((8, 8), np.uint16)
    assert stream.resembles_image(
        stream.encode_image_v1(Image(1, 0, {"": pixels_of(data, "none")}))
    )
    assert stream.resembles_image(
        stream.encode_image_v2(Image(1, 0, {"": pixels_of(data, "none")}), "u")
    )
    assert not stream.resembles_image([bytes(range(256))])


# LZ4


@given(st.binary(min_size=1, max_size=3000))
def test_lz4_round_trip(data):
    assert lz4.decompress_block(lz4.compress_block(data), len(data)).tobytes() == data
    assert lz4.decompress_hdf5(lz4.compress_hdf5(data), len(data)).tobytes() == data


def test_lz4_container_is_that_of_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    data = np.random.default_rng(1).poisson(3, (64, 96)).astype(np.uint16)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        dataset = file.create_dataset("d", data.shape, "<u2", chunks=data.shape, **hdf5plugin.LZ4())
        dataset.id.write_direct_chunk((0, 0), lz4.compress_hdf5(data.tobytes()))
        np.testing.assert_array_equal(dataset[()], data)
        dataset[()] = data[::-1]
        raw = dataset.id.read_direct_chunk((0, 0))[1]
    back = lz4.decompress_hdf5(raw, data.nbytes).view(np.uint16).reshape(data.shape)
    np.testing.assert_array_equal(back, data[::-1])


@given(st.binary(max_size=60), st.integers(0, 10_000))
def test_lz4_garbage_is_bad_block(raw, size):
    for start in (b"", struct.pack(">QI", size, size)):
        for undo in (lz4.decompress_block, lz4.decompress_hdf5):
            with contextlib.suppress(lz4.BadBlock):
                assert undo(start + raw, size).nbytes == size
