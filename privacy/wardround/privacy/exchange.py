"""Names that both ends of an exchange write and read: the form of a Flower message.

Every exchange between coordinator and site is one Flower message of one type. Its content is a
record (what is asked, its bytes, and a payload if that is small) and, for a large payload, one flat
array. Flower carries them and understands none of them. What is in the two is made and checked
here, for both ends; they themselves put it into Flower's objects, which this package does not know.

The form has a version: a site runs an exchange only when the bundle that names it (the FAB, whose
digest is pinned here) is the one that this version of Wardround builds.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from wardround.privacy.errors import MalformedData

MESSAGE_TYPE: Final = "query.wardround"
"""The one Flower message type in use."""

RECORD: Final = "wardround"
"""Name of the record that holds `KIND` and `BODY`."""

KIND: Final = "kind"
BODY: Final = "body"

PAYLOAD: Final = "payload"
"""Name of the payload: of a third field of the record where it is small, else of the one array
(flat, uint8) in the record of arrays; of neither where there is none."""

INLINE_PAYLOAD: Final = 1024 * 1024
"""Largest payload in bytes that goes into the record: Flower then moves three objects for a message
rather than six or more, and each of them costs a request."""

ARRAYS: Final = "payload"
"""Name of the record of arrays, which is there for a large payload alone."""

ARRAY_DTYPE: Final = "uint8"
ARRAY_FORM: Final = "bytes"
"""Flower's `stype` of that array: the bytes themselves, without NumPy's file header."""

ERROR: Final = "error"
"""Kind of a reply that says why there is no answer; its body is opaque here."""

MAX_KIND: Final = 64
MAX_BODY: Final = 4 * 1024 * 1024
"""Largest body in bytes; whatever is larger belongs into the payload."""

FIELDS: Final = {KIND, BODY, PAYLOAD}

RUN_KEY: Final = "wardround-run"
"""Run-config key under which Flower carries Wardround's own run id."""

FAB_SHA256: Final = "17972200d9ee332975b723f15bbb32cce5c7bc6ef9e0a630bdfddae2f5d58262"
"""Digest of the one Flower bundle that a site runs an exchange for."""


def write_record(kind: str, body: bytes, payload: bytes | None) -> dict[str, str | bytes]:
    """Return the fields of the record; a payload that is not among them goes into the array.

    Raises MalformedData beyond the limits.
    """
    if not 0 < len(kind) <= MAX_KIND or len(body) > MAX_BODY:
        raise MalformedData(
            f"an exchange needs a kind of 1 to {MAX_KIND} characters and a body of at most "
            f"{MAX_BODY} bytes; put larger bytes into the payload"
        )
    fields: dict[str, str | bytes] = {KIND: kind, BODY: body}
    if payload is not None and len(payload) <= INLINE_PAYLOAD:
        fields[PAYLOAD] = payload
    return fields


def read_record(fields: Mapping[str, object]) -> tuple[str, bytes, bytes | None]:
    """Return kind, body and small payload of a received record. Raises MalformedData."""
    if not {KIND, BODY} <= set(fields) <= FIELDS:
        raise MalformedData("the message's record has other fields than those of an exchange")
    kind, body, small = fields[KIND], fields[BODY], fields.get(PAYLOAD)
    if not isinstance(kind, str) or not 0 < len(kind) <= MAX_KIND:
        raise MalformedData("the message's kind is not a short text")
    if not isinstance(body, bytes) or len(body) > MAX_BODY:
        raise MalformedData("the message's body is not bytes, or too large")
    if small is None:
        return kind, body, None
    if not isinstance(small, bytes) or len(small) > INLINE_PAYLOAD:
        raise MalformedData("the message's payload is not bytes, or too large")
    return kind, body, small


def check_array(dtype: str, form: str, shape: Sequence[int], data: bytes) -> None:
    """Raise MalformedData unless a received array is a large payload in the one form."""
    size = len(data)
    if (dtype, form, tuple(shape)) != (ARRAY_DTYPE, ARRAY_FORM, (size,)) or size <= INLINE_PAYLOAD:
        raise MalformedData("the message's payload is not a large flat array of bytes")
