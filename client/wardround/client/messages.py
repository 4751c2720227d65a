"""The site's reading and writing of exchange messages: the mirror of the coordinator's.

See `wardround.privacy.exchange` for the form.
"""

from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.typing import ConfigRecordValues

from wardround.privacy.errors import MalformedData
from wardround.privacy.exchange import (
    ARRAY_DTYPE,
    ARRAY_FORM,
    ARRAYS,
    BODY,
    INLINE_PAYLOAD,
    KIND,
    MAX_BODY,
    MAX_KIND,
    MESSAGE_TYPE,
    PAYLOAD,
    RECORD,
)

FIELDS = {KIND, BODY, PAYLOAD}

Handler = Callable[[str, bytes, bytes | None], tuple[str, bytes, bytes | None]]
"""What a site does with a request: kind, body and payload in; kind, body and payload out."""


def read_request(message: Message) -> tuple[str, bytes, bytes | None]:
    """Kind, body and payload of a request. Raises `MalformedData` for any other message."""
    if message.metadata.message_type != MESSAGE_TYPE or not message.has_content():
        raise MalformedData("the message is not one of Wardround's exchanges")
    records = message.content
    if not {RECORD} <= set(records) <= {RECORD, ARRAYS}:
        raise MalformedData("the message holds other records than those of an exchange")
    config = records[RECORD]
    if not isinstance(config, ConfigRecord) or not {KIND, BODY} <= set(config) <= FIELDS:
        raise MalformedData("the message's record has other fields than those of an exchange")
    kind, body, small = config[KIND], config[BODY], config.get(PAYLOAD)
    if not isinstance(kind, str) or not 0 < len(kind) <= MAX_KIND:
        raise MalformedData("the message's kind is not a short text")
    if not isinstance(body, bytes) or len(body) > MAX_BODY:
        raise MalformedData("the message's body is not bytes, or too large")
    if small is not None:
        if not isinstance(small, bytes) or len(small) > INLINE_PAYLOAD or ARRAYS in records:
            raise MalformedData("the message's payload is not bytes, too large, or there twice")
        return kind, body, small
    return kind, body, _large_payload(records)


def _large_payload(records: RecordDict) -> bytes | None:
    if ARRAYS not in records:
        return None
    arrays = records[ARRAYS]
    if not isinstance(arrays, ArrayRecord) or set(arrays) != {PAYLOAD}:
        raise MalformedData("the message's arrays are not the one payload")
    array = arrays[PAYLOAD]
    form = (array.dtype, array.stype, tuple(array.shape))
    if form != (ARRAY_DTYPE, ARRAY_FORM, (len(array.data),)) or len(array.data) <= INLINE_PAYLOAD:
        raise MalformedData("the message's payload is not a large flat array of bytes")
    return bytes(array.data)


def make_reply(request: Message, kind: str, body: bytes, payload: bytes | None) -> Message:
    """The Flower message that answers `request`. Raises `MalformedData` beyond the limits."""
    if not 0 < len(kind) <= MAX_KIND or len(body) > MAX_BODY:
        raise MalformedData(
            f"a reply needs a kind of 1 to {MAX_KIND} characters and a body of at most "
            f"{MAX_BODY} bytes; put larger bytes into the payload"
        )
    fields: dict[str, ConfigRecordValues] = {KIND: kind, BODY: body}
    if payload is not None and len(payload) <= INLINE_PAYLOAD:
        fields[PAYLOAD] = payload
    records = RecordDict({RECORD: ConfigRecord(fields)})
    if payload is not None and len(payload) > INLINE_PAYLOAD:
        array = Array(ARRAY_DTYPE, (len(payload),), ARRAY_FORM, payload)
        records[ARRAYS] = ArrayRecord({PAYLOAD: array})
    return Message(records, reply_to=request)
