"""What coordinator and site say to each other: whatever bytes come, a message or MalformedData."""

import base64
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.privacy import canonical
from wardround.privacy.conversation import Answer, Ask
from wardround.privacy.errors import MalformedData
from wardround.privacy.identity import FileSigner
from wardround.privacy.loghead import LogHead, Receipt, SiteHead
from wardround.privacy.statements import FIRST, Body, Statement, sign

SIGNER = FileSigner.generate()
ENVELOPE = sign(Statement("0" * 64, "north", 1, FIRST, 1, "refusal", Body(rule="a")), SIGNER)
LOG_HEAD = LogHead("note\n", 1, ("00" * 32,), 1, ("{}",), (), (Receipt(1, 4, ("11" * 32,)),))
SITE_HEAD = SiteHead(3, 2, "line\n", (ENVELOPE,))
PARTS = st.dictionaries(st.text(max_size=10), st.binary(max_size=40), max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
READERS: tuple[Callable[[bytes], Ask | Answer], ...] = (Ask.from_bytes, Answer.from_bytes)
FIELDS: tuple[dict[str, canonical.Json], ...] = (
    {"run": "r", "head": LOG_HEAD.to_json(), "parts": {"task": "AAAA"}},
    {
        "parts": {"task": "AAAA"},
        "head": SITE_HEAD.to_json(),
        "refusal": "no",
    },
)


@given(st.text(max_size=20), PARTS, st.sampled_from([None, LOG_HEAD]))
def test_a_request_comes_back_as_it_was(
    run: str, parts: dict[str, bytes], head: LogHead | None
) -> None:
    ask = Ask(run, parts, head)
    assert Ask.from_bytes(ask.to_bytes()) == ask


@given(PARTS, st.sampled_from([None, SITE_HEAD]), st.text(max_size=20))
def test_an_answer_comes_back_as_it_was(
    parts: dict[str, bytes], head: SiteHead | None, refusal: str
) -> None:
    answer = Answer(parts, head, refusal)
    assert Answer.from_bytes(answer.to_bytes()) == answer


@pytest.mark.parametrize("read", READERS)
@given(data=st.binary(max_size=200))
def test_any_bytes_give_a_message_or_malformed_data(
    read: Callable[[bytes], object], data: bytes
) -> None:
    with suppress(MalformedData):
        read(data)


@pytest.mark.parametrize("which", range(2))
@given(data=st.data())
def test_any_json_in_any_place_gives_a_message_or_malformed_data(
    which: int, data: st.DataObject
) -> None:
    value = dict(FIELDS[which])
    READERS[which](canonical.dumps(value))  # as it stands it is a message
    place = data.draw(st.sampled_from([*value, "other"]))
    value[place] = data.draw(JSON)
    head = value["head"]
    if place == "head" and data.draw(st.booleans()):
        head = dict(FIELDS[which]["head"])  # type: ignore[arg-type]  # an object
        head[data.draw(st.sampled_from(sorted(head)))] = data.draw(JSON)
        value["head"] = head
    text = canonical.dumps(value)
    with suppress(MalformedData):
        read = READERS[which](text)
        assert type(read).from_bytes(read.to_bytes()) == read


@pytest.mark.parametrize("which", range(2))
@pytest.mark.parametrize("missing", ["head", "parts", "run", "refusal"])
def test_a_message_without_one_of_its_fields_is_refused(which: int, missing: str) -> None:
    value = dict(FIELDS[which])
    if missing not in value:
        value[missing] = "one too many"
    else:
        del value[missing]
    with pytest.raises(MalformedData, match="has exactly"):
        READERS[which](canonical.dumps(value))


@pytest.mark.parametrize("which", range(2))
@pytest.mark.parametrize("part", [1, None, "a", "AA\nAA", "\u00e9\u00e9\u00e9\u00e9", ["AAAA"]])
def test_a_part_that_is_not_base64_is_refused(which: int, part: canonical.Json) -> None:
    value = {**FIELDS[which], "parts": {"task": part}}
    with pytest.raises(MalformedData, match="a part is not"):
        READERS[which](canonical.dumps(value))


def test_a_missing_part_is_named() -> None:
    with pytest.raises(MalformedData, match="lacks its part 'advert'"):
        Ask("run", {}).part("advert")
    with pytest.raises(MalformedData, match="lacks its part 'upload'"):
        Answer({"advert": b""}).part("upload")


def test_no_secret_of_a_message_stands_in_its_repr() -> None:
    secret = base64.b16encode(b"masked vector").decode()
    for message in (Ask("run", {"a": secret.encode()}), Answer({"a": secret.encode()})):
        assert secret not in repr(message)
