"""The site's reading and writing of exchange messages: the mirror of the coordinator's.

See `wardround.privacy.exchange` for the form.
"""

from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from wardround.privacy.errors import MalformedData
from wardround.privacy.exchange import (
    ARRAY_DTYPE,
    ARRAY_FORM,
    ARRAYS,
    INLINE_PAYLOAD,
    MESSAGE_TYPE,
    PAYLOAD,
    RECORD,
    check_array,
    read_record,
    write_record,
)

Handler = Callable[[str, bytes, bytes | None], tuple[str, bytes, bytes | None]]
"""What a site does with a request: kind, body and payload in; kind, body and payload out."""


def read_request(message: Message) -> tuple[str, bytes, bytes | None]:
    """Kind, body and payload of a request. Raises `MalformedData` for any other message."""
    if message.metadata.message_type != MESSAGE_TYPE or not message.has_content():
        raise MalformedData("the message is not one of Wardround's exchanges")
    records = message.content
    if not {RECORD} <= set(records) <= {RECORD, ARRAYS}:
        raise MalformedData("the message holds other records than those of an exchange")
    record = records[RECORD]
    if not isinstance(record, ConfigRecord):
        raise MalformedData("the message's record has other fields than those of an exchange")
    kind, body, small = read_record(record)
    if ARRAYS not in records:
        return kind, body, small
    arrays = records[ARRAYS]
    if small is not None or not isinstance(arrays, ArrayRecord) or set(arrays) != {PAYLOAD}:
        raise MalformedData("the message's arrays are not the one payload, or it is there twice")
    array = arrays[PAYLOAD]
    check_array(array.dtype, array.stype, array.shape, array.data)
    return kind, body, bytes(array.data)


def make_reply(request: Message, kind: str, body: bytes, payload: bytes | None) -> Message:
    """The Flower message that answers `request`. Raises `MalformedData` beyond the limits."""
    records = RecordDict({RECORD: ConfigRecord({**write_record(kind, body, payload)})})
    if payload is not None and len(payload) > INLINE_PAYLOAD:
        array = Array(ARRAY_DTYPE, (len(payload),), ARRAY_FORM, payload)
        records[ARRAYS] = ArrayRecord({PAYLOAD: array})
    return Message(records, reply_to=request)
