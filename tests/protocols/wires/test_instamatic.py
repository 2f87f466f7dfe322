"""The instamatic codec: messages without frames are found however they arrive."""

import contextlib
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.protocols.wires import instamatic
from pyrotome.protocols.wires.instamatic import (
    BadMessage,
    Call,
    JsonDecoder,
    Reply,
    StageCoordinates,
)

names = st.text("abcdefSetgA", min_size=1, max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | finite
json_values = st.recursive(
    scalars | st.text('a0 é"\\[]{}\n', max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
calls = st.builds(
    Call,
    names,
    st.lists(scalars, max_size=3).map(tuple),
    st.dictionaries(names, scalars, max_size=2),
)
replies = st.builds(Reply, st.sampled_from([instamatic.OK, instamatic.FAILED]), json_values)
cuts = st.lists(st.integers(1, 30), max_size=20)


def fed(decoder, stream, sizes):
    found = []
    for size in [*sizes, len(stream) + 1]:
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    return found


@given(st.lists(calls, max_size=4), cuts)
def test_calls_split_or_run_together(sent, sizes):
    stream = b"".join(instamatic.encode_call(call) for call in sent)
    values = fed(JsonDecoder(replies=False), stream, sizes)
    assert [instamatic.parse_call(value) for value in values] == sent


@given(st.lists(replies, max_size=4), cuts, st.sampled_from([b"", b" ", b"\r\n"]))
def test_replies_split_or_run_together(sent, sizes, between):
    stream = b"".join(instamatic.encode_reply(reply) + between for reply in sent)
    values = fed(JsonDecoder(replies=True), stream, sizes)
    assert [instamatic.parse_reply(value) for value in values] == sent


@given(replies)
def test_a_reply_byte_by_byte_is_there_with_its_last(reply):
    raw = instamatic.encode_reply(reply)
    decoder = JsonDecoder(replies=True)
    assert all(decoder.feed(raw[k : k + 1]) == [] for k in range(len(raw) - 1))
    assert instamatic.parse_reply(decoder.feed(raw[-1:])[0]) == reply


@given(st.binary(max_size=60).filter(lambda b: b"[" not in b and b[:1] != b"\x80"), replies, cuts)
def test_noise_before_a_reply_is_skipped(noise, reply, sizes):
    values = fed(JsonDecoder(replies=True), noise + instamatic.encode_reply(reply), sizes)
    assert [instamatic.parse_reply(value) for value in values] == [reply]


@pytest.mark.parametrize(
    "noise",
    [b"[", b"[2", b"[2;", b"[200, nul!", b"[1]] ", b'[3, "a\n', b"{MPX,{\r\n:", b"[200, 1.x"],
)
def test_noise_that_begins_like_a_reply(noise):
    found = JsonDecoder(replies=True).feed(noise + b'[200, "x"]')
    assert [200, "x"] in found


@given(st.binary(max_size=200))
def test_garbage_is_bad_message_and_nothing_else(raw):
    for replies_ in (True, False):
        parse = instamatic.parse_reply if replies_ else instamatic.parse_call
        with contextlib.suppress(BadMessage):
            for value in JsonDecoder(replies=replies_).feed(raw):
                parse(value)


def test_pickle_is_refused_unread():
    class Fires:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    for protocol in range(2, 6):
        with pytest.raises(BadMessage, match="pickle"):
            JsonDecoder(replies=True).feed(pickle.dumps((200, Fires()), protocol))


def test_a_message_without_an_end():
    decoder = JsonDecoder(replies=True)
    with pytest.raises(BadMessage, match="without an end"):
        decoder.feed(b'[200, "' + b"x" * instamatic.MAX_REPLY_BYTES)
    with pytest.raises(BadMessage, match="brackets"):
        decoder.feed(b"[2,[" + b"[" * 99_000)
    assert decoder.feed(b"[200, 1]") == [[200, 1]]


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_has_not(word):
    decoder = JsonDecoder(replies=True)
    with pytest.raises(BadMessage, match=word):
        decoder.feed(f"[200, [{word}]]".encode())
    assert decoder.feed(b"[200, 1]") == [[200, 1]]


def test_requests_that_are_not_sent():
    with pytest.raises(BadMessage, match="reads 1024"):
        instamatic.encode_call(Call("x" * 1024))
    with pytest.raises(BadMessage):
        instamatic.encode_call(Call("setStageA", (math.nan,)))


def test_what_instamatic_says():
    """Answers as instamatic.temserver 2.2.2 sent them."""
    decoder = JsonDecoder(replies=True)
    position, refusal = decoder.feed(
        b"[200, [-2189, -12404, 4792, 0.0, -27.0]]"
        b"[500, [\"AttributeError\", [\"'SimuMicroscope' object has no attribute 'bogus'\"]]]"
    )
    at = instamatic.parse_position(instamatic.parse_reply(position).value)
    assert at == StageCoordinates(-2189, -12404, 4792, 0.0, -27.0)
    assert instamatic.position_to_wire(at) == position[1]
    reply = instamatic.parse_reply(refusal)
    assert not reply.ok
    assert reply.describe() == "AttributeError: 'SimuMicroscope' object has no attribute 'bogus'"
    assert Reply(500, ["NotImplementedError", []]).describe() == "NotImplementedError"
    assert Reply(500, None).describe() == "500 None"


@pytest.mark.parametrize("value", [[], [1, 2], [200], [200, 1, 2], [True, 1], {}, None, "200"])
def test_values_that_are_no_reply(value):
    with pytest.raises(BadMessage):
        instamatic.parse_reply(value)


@pytest.mark.parametrize("value", [[0, 0, 0, 0], [0, 0, 0, "a", 0], [0, 0, 0, True, 0], None, 3])
def test_values_that_are_no_position(value):
    with pytest.raises(BadMessage, match="getStagePosition"):
        instamatic.parse_position(value)


@pytest.mark.parametrize(("value", "flag"), [(True, True), (False, False), (1, True), (0, False)])
def test_flags(value, flag):
    assert instamatic.parse_flag(value, "moving") is flag


@pytest.mark.parametrize("value", ["yes", None, [1]])
def test_flags_that_are_none(value):
    with pytest.raises(BadMessage, match="moving"):
        instamatic.parse_flag(value, "moving")


@pytest.mark.parametrize("value", [None, {"mag1": 3}, {"mag1": ["x"]}])
def test_magnifications_that_are_none(value):
    with pytest.raises(BadMessage):
        instamatic.parse_magnifications(value)
