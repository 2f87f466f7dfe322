"""Messages of the tracker survive the wire, and bad ones are refused with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.protocols.core.errors import BadMessage
from pyrotome.protocols.messages.tracking import (
    BlurSeen,
    Focused,
    FocusMeasured,
    FocusPicture,
    FrameTaken,
    HoldDone,
    OffsetMeasured,
    Row,
    SeriesBegun,
    ShiftSet,
    StageMoved,
    Table,
    TemperatureRead,
    Visit,
    encode_tracking,
    parse_tracking,
)

finite = st.floats(-1e6, 1e6)
positive = st.floats(1e-3, 1e6)
degrees = st.floats(-90, 90)
times = st.integers(0, (1 << 63) - 1)
names = st.text("abc_019", min_size=1, max_size=20)
pairs = st.tuples(finite, finite)
spreads = st.tuples(positive, positive)
scans = st.sampled_from(("frame", "scout", "wide"))
visits = st.builds(Visit, tilt_deg=degrees, t_ns=times)
rows = st.builds(
    Row,
    tilt_deg=degrees,
    t_ns=times,
    shift_nm=pairs,
    shift_sd_nm=spreads,
    defocus_nm=finite,
    defocus_sd_nm=positive,
    drift_nm_per_s=positive,
    drift_sd_nm_per_s=positive,
)
messages = st.one_of(
    st.builds(SeriesBegun, series=names, visits=st.lists(visits, max_size=5).map(tuple)),
    st.builds(
        FrameTaken,
        t_ns=times,
        series=names,
        index=st.integers(0, 99),
        scan=scans,
        tilt_deg=degrees,
        field_nm=positive,
        dose_e_per_nm2=positive,
        shift_nm=st.none() | pairs,
        defocus_nm=st.none() | finite,
        temperature_c=st.none() | finite,
    ),
    st.builds(
        StageMoved,
        t_ns=times,
        moved_nm=st.tuples(finite, finite, finite),
        error_nm=st.tuples(positive, positive, positive),
    ),
    st.builds(HoldDone, t_ns=times, rise_k=finite, hold_s=positive),
    st.builds(TemperatureRead, t_ns=times, temperature_c=finite),
    st.builds(ShiftSet, t_ns=times, shift_nm=pairs, defocus_nm=finite),
    st.builds(Focused, t_ns=times, defocus_nm=finite, sd_nm=positive, reset=st.booleans()),
    st.builds(
        OffsetMeasured,
        t_ns=times,
        series=names,
        index=st.integers(0, 99),
        scan=scans,
        tilt_deg=degrees,
        offset_nm=st.none() | pairs,
        sd_nm=st.none() | spreads,
        doubt=st.sampled_from(("", "blank", "decoy")),
        slip=st.floats(0, 1),
        blur=st.none()
        | st.builds(
            BlurSeen,
            blur_nm=positive,
            sd_nm=positive,
            out_of_focus_nm=st.none() | positive,
            begins=st.booleans(),
            blurred=st.booleans(),
            stays=st.booleans(),
        ),
    ),
    st.builds(
        FocusPicture,
        t_ns=times,
        series=names,
        index=st.integers(0, 99),
        number=st.integers(0, 2),
        of=st.just(3),
        tilt_deg=degrees,
        field_nm=positive,
        defocus_nm=finite,
    ),
    st.builds(
        FocusMeasured,
        t_ns=times,
        series=names,
        index=st.integers(0, 99),
        tilt_deg=degrees,
        defocus_nm=finite,
        sd_nm=positive,
        doubt=st.sampled_from(("", "no-contrast", "outside", "different")),
    ),
    st.builds(
        Table,
        t_ns=times,
        number=st.integers(0, 99),
        series=names,
        index=st.none() | st.integers(0, 99),
        rows=st.lists(rows, max_size=3).map(tuple),
        trusted=st.booleans(),
        notes=st.lists(st.text(max_size=20), max_size=2).map(tuple),
    ),
)


@given(messages)
def test_a_message_survives_the_wire(message):
    assert parse_tracking(encode_tracking(message)) == message


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"", "JSON"),
        (b'{"kind":"dance"}', "tag"),
        (b'{"kind":"shift","t_ns":1,"shift_nm":[1]}', "shift_nm"),
        (b'{"kind":"hold","t_ns":-1,"rise_k":1}', "t_ns"),
        (b'{"kind":"hold","t_ns":1,"rise_k":1,"colour":2}', "colour"),
        (b" " * 1_000_001, "at most"),
    ],
)
def test_a_bad_message_says_what_is_wrong(raw, word):
    with pytest.raises(BadMessage, match=word):
        parse_tracking(raw)


def test_the_row_of_an_angle_is_the_nearest_one():
    made = [
        Row(
            tilt_deg=tilt,
            t_ns=0,
            shift_nm=(0, 0),
            shift_sd_nm=(1, 1),
            defocus_nm=0,
            defocus_sd_nm=1,
            drift_nm_per_s=0,
            drift_sd_nm_per_s=0,
        )
        for tilt in (-2, 0, 2)
    ]
    table = Table(t_ns=0, number=1, series="s", index=None, rows=tuple(made))
    assert table.row_at(1.95) == made[2]
    assert table.row_at(1.0) is None
