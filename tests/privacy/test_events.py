"""The catalogue of leaves: every kind goes out and comes back, nothing else does."""

import json
from dataclasses import fields, replace
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.events import (
    KINDS,
    Access,
    Event,
    Fault,
    Leaf,
    from_leaf,
    statement_leaf,
    to_leaf,
)
from wardround.privacy.identity import FileSigner
from wardround.privacy.records import Pattern, Record, one_line
from wardround.privacy.statements import FIRST, Body, Envelope, Statement, pae, sign

SIGNER = FileSigner.generate()
DIGEST = "ab" * 32


def sample(hint: Any) -> Any:
    """A value that fits a field, by its rule: enough to make any event of the catalogue."""
    if get_origin(hint) is tuple:
        return (sample(get_args(hint)[0]),)
    if isinstance(hint, type) and issubclass(hint, Record):
        return example(hint)
    if hint is bool:
        return True
    kind, rule = get_args(hint)
    if kind is int:
        return 7
    assert isinstance(rule, Pattern)
    for text in (DIGEST, DIGEST * 2, "site-a"):
        try:
            rule.check("", text)
        except MalformedData:
            continue
        return text
    return "1.5"


def example(cls: type[Any]) -> Any:
    hints = get_type_hints(cls, include_extras=True)
    return cls(**{f.name: sample(hints[f.name]) for f in fields(cls)})


def leaf_of(event: Event) -> bytes:
    if not event.signed:
        return to_leaf(event, 1000, "actor-1")
    statement = Statement(DIGEST, "site-a", 1, FIRST, 900, event.kind, Body(event.to_json()))
    event_site = getattr(event, "site", "site-a")
    return statement_leaf(sign(replace(statement, site=event_site), SIGNER), 1000, "actor-1")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_comes_back_as_it_went(kind: str) -> None:
    event = replace(
        example(KINDS[kind]),
        **({"site": "site-a"} if "site" in {f.name for f in fields(KINDS[kind])} else {}),
    )
    data = leaf_of(event)
    assert data == canonical.dumps(json.loads(data))
    leaf = from_leaf(data)
    assert leaf.event == event
    assert (leaf.kind, leaf.ts_ms, leaf.actor) == (kind, 1000, "actor-1")
    assert (leaf.envelope is not None) == KINDS[kind].signed


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_leaf_with_one_field_missing_or_added_is_refused(kind: str) -> None:
    event = example(KINDS[kind])
    body = event.to_json()
    with pytest.raises(MalformedData, match="missing or unknown"):
        KINDS[kind].from_json({**body, "extra": 1})
    del body[next(iter(body))]
    with pytest.raises(MalformedData, match="missing or unknown"):
        KINDS[kind].from_json(body)


ACCESS = Access("http", "GET", "/runs", "allowed", 200, "auditor", "")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"status":200', b'"status":200,"status":201', "canonical form"),
        (b'"status":200', b'"status":200.0', "is a float"),
        (b'"status":200', b'"status":true', "is a bool"),
        (b'"status":200', b'"status":-1', "not between"),
        (b'"status":200', b'"status": 200', "canonical form"),
        (b'"v":1', b'"v":2', "not between 1 and 1"),
        (b'"v":1', b'"v":true', "is a bool"),
        (b'"kind":"access"', b'"kind":"acess"', "not a kind"),
        (b'"kind":"access"', b'"kind":"update"', "missing or unknown"),
        (b'"GET"', b'"GET\\n200"', "is 'GET"),
        (b"/runs", b"<script>", "markup"),
        (b"/runs", b"\\u202egpj", "markup"),
        (b"/runs", b"\\u2028x", "markup"),
    ],
)
def test_a_leaf_in_any_other_form_is_refused(old: bytes, new: bytes, reason: str) -> None:
    leaf = to_leaf(ACCESS, 5, "id")
    assert old in leaf
    with pytest.raises(MalformedData, match=reason):
        from_leaf(leaf.replace(old, new))


def test_what_only_a_site_can_say_is_not_taken_from_the_coordinator() -> None:
    update = example(KINDS["update"])
    with pytest.raises(MalformedData, match="site to sign"):
        to_leaf(update, 5)
    head = {"actor": "", "kind": "update", "ts_ms": 5, "v": 1}
    with pytest.raises(MalformedData, match="without the signature"):
        from_leaf(canonical.dumps({**head, "event": update.to_json()}))


def test_a_site_cannot_enrol_another() -> None:
    event = replace(example(KINDS["enrol"]), site="site-b")
    statement = Statement(DIGEST, "site-a", 1, FIRST, 9, "enrol", Body(event.to_json()))
    with pytest.raises(MalformedData, match="another one"):
        from_leaf(statement_leaf(sign(statement, SIGNER), 10))


def test_pre_authentication_encoding_is_that_of_the_dsse_specification() -> None:
    # secure-systems-lab/dsse, protocol.md, "Test Vectors".
    assert (
        pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_signed_as_one_type_is_not_valid_as_another() -> None:
    event = example(KINDS["closing"])
    made = sign(Statement(DIGEST, "a", 1, FIRST, 9, "closing", Body(event.to_json())), SIGNER)
    made.verify(SIGNER.public_bytes())
    other = replace(made, payload_type="application/vnd.wardround.update.v1+json")
    with pytest.raises(SignatureInvalid):
        other.verify(SIGNER.public_bytes())
    with pytest.raises(MalformedData, match="differ"):
        other.statement()
    assert Envelope.from_bytes(made.to_bytes()) == made


def test_an_envelope_with_two_signatures_or_loose_base64_is_refused() -> None:
    event = example(KINDS["closing"])
    made = sign(Statement(DIGEST, "a", 1, FIRST, 9, "closing", Body(event.to_json())), SIGNER)
    value = json.loads(made.to_bytes())
    value["signatures"] *= 2
    with pytest.raises(MalformedData, match="exactly one"):
        Envelope.from_json(value)
    loose = replace(made, sig=made.sig[:-3] + chr(ord(made.sig[-3]) + 1) + "==")
    with pytest.raises((MalformedData, SignatureInvalid)):
        loose.verify(SIGNER.public_bytes())


@given(st.text(max_size=600))
def test_any_text_becomes_one_harmless_line(text: str) -> None:
    fault = Fault("", 0, 0, "", "upload", one_line(text))
    assert from_leaf(to_leaf(fault, 1)) == Leaf(1, "", fault)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_the_right_error(data: bytes) -> None:
    with pytest.raises(MalformedData):
        from_leaf(data)
