"""The codec: one form for each message, and a typed error for every other byte string."""

import math
import struct
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_federation import build, ready, wire

from wardround.privacy.errors import MessageMalformed, ParametersInvalid
from wardround.privacy.secagg import (
    BookAck,
    Confirmation,
    KeyAdvert,
    KeyBook,
    Opening,
    Quorum,
    RunSpec,
    Shares,
    SignedRunSpec,
    Survivors,
    SurvivorSignature,
    Task,
    Upload,
    decode,
    encode,
)
from wardround.privacy.secagg.codec import MAX_MESSAGE, signed_bytes
from wardround.privacy.secagg.messages import Approval
from wardround.privacy.secagg.state import ParticipantState


def _examples() -> dict[type, bytes]:
    federation = build(5)
    sites, aggregator = federation.sites, federation.aggregator
    first = federation.names[0]
    examples: list[Any] = [federation.spec]
    for site in sites.values():
        aggregator.add_advert(site.advertise())
    examples += [sites[first].advertise()]
    aggregator.add_advert(examples[-1])
    examples += [aggregator.key_book()]
    for site in sites.values():
        examples.append(site.accept_book(aggregator.key_book()))
        aggregator.add_ack(examples[-1])
    examples += [examples[-1].approval, aggregator.confirmation(first)]
    for name, site in sites.items():
        site.confirm(aggregator.confirmation(name))
    task = federation.start(clip=0.5)
    for name in federation.names[:4]:
        federation.upload(task, name)
    examples += [task, federation.uploads[first][0], federation.uploads[first][0].header]
    aggregator.survivors()
    examples += [aggregator.survivors_for(first), aggregator.survivors_for(first).set]
    examples += [sites[first].accept_survivors(aggregator.survivors_for(first))]
    federation.sign()
    examples += [aggregator.quorum(), sites[first].release_shares(aggregator.quorum())]
    federation.release()
    examples += [federation.opened()[0]]
    result = {type(example): encode(example) for example in examples}
    result[ParticipantState] = federation.stores[first].saved or b""
    return result


EXAMPLES = _examples()
KINDS = sorted(EXAMPLES, key=lambda kind: kind.__name__)


def test_every_message_of_the_protocol_is_exercised() -> None:
    expected = {
        SignedRunSpec, KeyAdvert, KeyBook, Approval, BookAck, Confirmation, Task, Upload,
        Survivors, SurvivorSignature, Quorum, Shares, Opening,
    }  # fmt: skip
    assert expected <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_and_encoding_are_inverse(kind: type) -> None:
    message = decode(kind, EXAMPLES[kind])
    assert encode(message) == EXAMPLES[kind]
    assert decode(kind, encode(message)) == message


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_and_extension_is_refused(kind: type) -> None:
    data = EXAMPLES[kind]
    for size in {0, 1, 4, len(data) // 3, len(data) // 2, len(data) - 1}:
        with pytest.raises(MessageMalformed):
            decode(kind, data[:size])
    with pytest.raises(MessageMalformed, match="follow"):
        decode(kind, data + b"\0")


def test_no_message_decodes_as_another_type() -> None:
    for kind in KINDS:
        for other in KINDS:
            if other is not kind:
                with pytest.raises(MessageMalformed, match="not a"):
                    decode(other, EXAMPLES[kind])


@settings(max_examples=300)
@given(st.sampled_from(KINDS), st.data())
def test_fuzzed_messages_give_a_message_or_a_typed_error(kind: type, data: st.DataObject) -> None:
    """Bytes changed, cut, doubled or inserted; what still decodes encodes to the same bytes."""
    example = bytearray(EXAMPLES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(example) - 1)))
        action = data.draw(st.sampled_from(["set", "cut", "insert", "length"]))
        if action == "set" and example:
            example[at] = data.draw(st.integers(0, 255))
        elif action == "cut":
            del example[at : at + data.draw(st.integers(1, 40))]
        elif action == "insert":
            example[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            example[at : at + 4] = data.draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\0\0\1\0"]))
    try:
        message = decode(kind, bytes(example))
    except (MessageMalformed, ParametersInvalid):
        return
    assert encode(message) == bytes(example)


@settings(max_examples=200)
@given(st.sampled_from(KINDS), st.binary(max_size=400))
def test_random_bytes_behind_a_right_label_never_leak_another_error(
    kind: type, tail: bytes
) -> None:
    label = EXAMPLES[kind][: 4 + int.from_bytes(EXAMPLES[kind][:4], "big")]
    try:
        message = decode(kind, label + tail)
    except (MessageMalformed, ParametersInvalid):
        return
    assert encode(message) == label + tail


def test_claimed_lengths_do_not_cost_memory() -> None:
    """A few bytes that claim four billion items are refused before anything is allocated."""
    label = EXAMPLES[KeyBook][: 4 + int.from_bytes(EXAMPLES[KeyBook][:4], "big")]
    head = label + (32).to_bytes(4, "big") + bytes(32)
    attacks = [head + b"\xff" * 4, head + (50).to_bytes(4, "big"), head + b"\0\0\0\1" + b"\xff" * 8]
    for kind in KINDS:
        prefix = EXAMPLES[kind][: 4 + int.from_bytes(EXAMPLES[kind][:4], "big")]
        attacks.append(prefix + b"\xff" * 64)
    tracemalloc.start()
    try:
        for data in attacks:
            for kind in KINDS:
                with pytest.raises(MessageMalformed):
                    decode(kind, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


def test_a_message_beyond_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(MessageMalformed, match="at most"):
        decode(KeyBook, bytes(MAX_MESSAGE + 1))


def test_floats_bools_and_names_have_one_form() -> None:
    """NaN, infinities and the second zero; a bool beside 0 and 1; bytes that are no text."""
    task, spec = decode(Task, EXAMPLES[Task]), EXAMPLES[SignedRunSpec]
    good = struct.pack(">d", task.clip)
    assert EXAMPLES[Task].count(good) == 1
    for bad in (math.nan, math.inf, -math.inf, -0.0):
        with pytest.raises(MessageMalformed, match="float"):
            decode(Task, EXAMPLES[Task].replace(good, struct.pack(">d", bad)))
        with pytest.raises(MessageMalformed, match="float"):
            encode(replace(task, clip=bad))
    assert decode(Task, encode(replace(task, clip=0.0))).clip == 0.0
    mode = len(spec) - 4 - 64 - 1  # group_mode stands before the signature
    assert spec[mode] == 0
    for bad_bool in (2, 255):
        with pytest.raises(MessageMalformed, match="bool"):
            decode(SignedRunSpec, spec[:mode] + bytes([bad_bool]) + spec[mode + 1 :])
    with pytest.raises(MessageMalformed, match="UTF-8"):
        decode(KeyAdvert, EXAMPLES[KeyAdvert].replace(b"site-00", b"site-0\xff"))
    with pytest.raises(MessageMalformed, match="int"):
        encode(replace(task, attempt=True))


def test_wrong_python_types_are_not_encoded() -> None:
    advert = decode(KeyAdvert, EXAMPLES[KeyAdvert])
    fields = (advert.spec, advert.site, advert.public_key, advert.group_commitment)
    for bad in (bytearray(32), "x" * 32, None, b"short"):
        with pytest.raises(MessageMalformed):
            encode(KeyAdvert(bad, *fields[1:]))  # type: ignore[arg-type]
    for name in ("Upper", "a b", "", "x" * 33, "é"):
        with pytest.raises(MessageMalformed):
            encode(KeyAdvert(fields[0], name, *fields[2:]))
    with pytest.raises(MessageMalformed):
        encode(object())


def test_a_signature_covers_type_and_every_field_but_itself() -> None:
    advert = decode(KeyAdvert, EXAMPLES[KeyAdvert])
    assert signed_bytes(advert) + b"\0\0\0\x40" + advert.signature == b"signed:" + encode(advert)


def test_a_decoded_run_spec_is_checked() -> None:
    federation = ready(3)
    data = bytearray(encode(federation.spec.spec))
    place = len(data) - 1  # group_mode, behind ring_bits
    data[place - 1] = 33
    with pytest.raises(ParametersInvalid, match="ring_bits"):
        decode(RunSpec, bytes(data))
    assert wire(federation.spec) == federation.spec


def test_secrets_do_not_show_in_representations() -> None:
    state = decode(ParticipantState, EXAMPLES[ParticipantState])
    text = repr(state)
    for name in ("group_key", "roots=", "private_key", "own_shares", "held"):
        assert name not in text
