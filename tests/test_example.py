"""The record codec: round trips, wire bytes by hand, and what it refuses."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socialtag_jax.errors import UserError
from socialtag_jax.shards.example import Record, encode_example, parse_example

records = st.builds(
    Record,
    image=st.binary(min_size=1, max_size=100),
    image_id=st.text(),
    tags=st.sets(st.integers(0, 999)).map(lambda tags: tuple(sorted(tags))),
)


@given(records)
def test_round_trip(record: Record):
    assert parse_example(encode_example(record), n_tags=1000) == record


def test_wire_bytes_by_hand():
    """The protobuf wire format, written out for a record with one tag."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    def entry(key: str, feature: bytes) -> bytes:
        return field(1, field(1, key.encode()) + field(2, feature))

    bytes_list, int64_list = 1, 3
    entries = [
        entry("image", field(bytes_list, field(1, b"\xff\xd8"))),
        entry("image_id", field(bytes_list, field(1, b"a/b.jpg"))),
        entry("tags", field(int64_list, field(1, b"\x05"))),
    ]
    # A map's entries may come in any order.
    expected = [field(1, b"".join(order)) for order in itertools.permutations(entries)]
    record = Record(b"\xff\xd8", "a/b.jpg", (5,))
    assert encode_example(record) in expected
    assert all(parse_example(data, n_tags=6) == record for data in expected)


def test_tags_outside_the_vocabulary_are_refused():
    data = encode_example(Record(b"x", "id", (1, 7)))
    with pytest.raises(UserError, match=r"tag indices \(1, 7\) reach outside the vocabulary of 7 tags"):
        parse_example(data, n_tags=7)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05"])
def test_other_bytes_are_refused(data: bytes):
    with pytest.raises(UserError, match=r"not a tf\.train\.Example"):
        parse_example(data, n_tags=1)


def test_missing_feature_is_named():
    with pytest.raises(UserError, match="feature 'image' has 0 byte values, expected 1"):
        parse_example(b"", n_tags=1)


def test_image_id_that_is_no_text_is_refused():
    good = encode_example(Record(b"x", "QQQQ", ()))
    with pytest.raises(UserError, match="'image_id' is not UTF-8"):
        parse_example(good.replace(b"QQQQ", b"\xff\xfe\xfd\xfc"), n_tags=1)
