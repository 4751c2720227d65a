"""One value, one text: what would not be written is not read."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


@given(VALUES)
def test_round_trip(value: canonical.Json) -> None:
    data = canonical.dumps(value)
    assert canonical.loads(data) == value
    assert data.isascii()


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_the_typed_error(data: bytes) -> None:
    with contextlib.suppress(MalformedData):
        assert canonical.dumps(canonical.loads(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b"1.0",
        b"1e3",
        b"NaN",
        b"-0",
        b'"\\u0041"',
        b"[1,]",
        b"",
        b"9223372036854775808",
        b"[" * 40 + b"]" * 40,
        b"[" * 100_000,
    ],
)
def test_another_spelling_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedData):
        canonical.loads(text)


def test_what_has_no_form_is_not_written() -> None:
    for value in (1.5, {1: "a"}, {"a": b"x"}, 2**63):
        with pytest.raises(MalformedData):
            canonical.dumps(value)  # type: ignore[arg-type]  # wrong on purpose


def test_too_long_a_text_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(MalformedData, match="at most 10"):
        canonical.loads(b'"' + b"a" * 20 + b'"', max_bytes=10)
