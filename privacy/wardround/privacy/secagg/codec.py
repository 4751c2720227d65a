"""The one byte form of every protocol message: strict, injective, bounded.

A message is a frozen dataclass; its fields and their `Limit`s are its schema. Encoding writes the
label `wardround/v1/secagg/<Type>` and then the fields in order, each of fixed width or prefixed
with its length, so no two messages share an encoding and no encoding reads as two messages.
Decoding accepts exactly what encoding writes, consumes every byte, and never allocates more than
a small multiple of the input.

    bool        1 byte, 0 or 1         int    8 bytes, unsigned
    bytes, str  4-byte length first    float  8 bytes, IEEE 754, finite, not -0
    tuple       4-byte count first     X | None  1 byte, 0 or 1, then X
"""

import hashlib
import math
import re
import struct
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from wardround.privacy.errors import MessageMalformed

LABEL = "wardround/v1/secagg/"
MAX_MESSAGE = 4 * 2**20
MAX_INTEGER = 2**63 - 1

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of a field: the value of an int, the length of anything else; both ends allowed."""

    low: int
    high: int
    pattern: re.Pattern[str] | None = None


_DEFAULTS: dict[type, Limit] = {
    int: Limit(0, MAX_INTEGER),
    bytes: Limit(0, MAX_MESSAGE),
    str: Limit(0, 256),
    tuple: Limit(0, 100_000),
}


class _Reader:
    """Takes bytes off the front of a message; refuses to go past its end."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise MessageMalformed("message ends in the middle of a field")
        self._at += size
        return self._data[self._at - size : self._at]

    def length(self) -> int:
        return int.from_bytes(self.take(4), "big")


@dataclass(frozen=True, slots=True)
class _Field:
    """How one type is written to a list of pieces and read back."""

    write: Callable[[Any, list[bytes]], None]
    read: Callable[[_Reader], Any]


def encode(message: object) -> bytes:
    """Return the bytes of a message dataclass, label first.

    Raises MessageMalformed when a field is not of its declared type or outside its `Limit`.
    """
    return _encode(message, ())


def decode(kind: type[Message], data: bytes) -> Message:
    """Return the message of type `kind` that `encode` wrote as `data`.

    Raises MessageMalformed for any other bytes: another type or version, a field out of bounds,
    a truncated message, or bytes behind it.
    """
    if len(data) > MAX_MESSAGE:
        raise MessageMalformed(f"message of {len(data)} bytes; at most {MAX_MESSAGE} are accepted")
    reader = _Reader(bytes(data))
    schema: Any = kind  # a type is hashable; mypy doubts it
    label = _label(schema)
    if reader.take(min(len(label), reader.left)) != label:
        raise MessageMalformed(f"not a {kind.__name__} of this protocol version")
    message: Message = _field(schema).read(reader)
    if reader.left:
        raise MessageMalformed(f"{reader.left} bytes follow the {kind.__name__}")
    return message


def signed_bytes(message: object) -> bytes:
    """Return what the `signature` field of a message signs: the message without that field.

    The label differs from that of any whole message, so a signature fits one type only.
    """
    return b"signed:" + _encode(message, ("signature",))


@lru_cache(maxsize=256)
def digest(message: Hashable) -> bytes:
    """Return the SHA-256 of the encoding of a message: 32 bytes.

    Remembered for the last few messages: equal messages have equal encodings.
    """
    return hashlib.sha256(encode(message)).digest()


def _encode(message: object, leave_out: tuple[str, ...]) -> bytes:
    kind: Any = type(message)
    pieces = [_label(kind)]
    for name, field in _schema(kind):
        if name not in leave_out:
            field.write(getattr(message, name), pieces)
    data = b"".join(pieces)
    if len(data) > MAX_MESSAGE:
        raise MessageMalformed(f"a {kind.__name__} of {len(data)} bytes is too large to send")
    return data


@cache
def _label(kind: type) -> bytes:
    text = (LABEL + kind.__name__).encode()
    return struct.pack(">I", len(text)) + text


@cache
def _schema(kind: type) -> tuple[tuple[str, _Field], ...]:
    if not is_dataclass(kind):
        raise MessageMalformed(f"{kind.__name__} is not a message")
    hints = get_type_hints(kind, include_extras=True)
    return tuple((field.name, _field(hints[field.name])) for field in fields(kind))


@cache
def _field(kind: Any) -> _Field:
    limit: Limit | None = None
    if get_origin(kind) is Annotated:
        kind, limit = get_args(kind)
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType):
        return _optional(kind)
    if origin is bool:
        return _Field(_write_bool, _read_bool)
    if origin is float:
        return _Field(_write_float, _read_float)
    if origin in _DEFAULTS:
        limit = limit or _DEFAULTS[origin]
        if origin is int:
            return _integer(limit)
        if origin is bytes:
            return _bytes(limit)
        if origin is str:
            return _text(limit)
        return _tuple(_field(get_args(kind)[0]), limit)
    return _message(kind)


def _bound(size: int, limit: Limit) -> None:
    if not limit.low <= size <= limit.high:
        raise MessageMalformed(f"a field is {size}; {limit.low} to {limit.high} is accepted")


def _write_bool(value: Any, out: list[bytes]) -> None:
    if type(value) is not bool:
        raise MessageMalformed("a field is not a bool")
    out.append(b"\1" if value else b"\0")


def _read_bool(reader: _Reader) -> bool:
    byte = reader.take(1)
    if byte not in (b"\0", b"\1"):
        raise MessageMalformed("a bool is neither 0 nor 1")
    return byte == b"\1"


def _write_float(value: Any, out: list[bytes]) -> None:
    if type(value) is not float or not _has_one_form(value):
        raise MessageMalformed("a field is not a finite float")
    out.append(struct.pack(">d", value))


def _read_float(reader: _Reader) -> float:
    (value,) = struct.unpack(">d", reader.take(8))
    if not _has_one_form(value):
        raise MessageMalformed("a float is not finite, or is negative zero")
    return float(value)


def _has_one_form(value: float) -> bool:
    """Whether equal floats have equal bytes: NaN and the second zero do not."""
    return math.isfinite(value) and (value != 0 or math.copysign(1, value) > 0)


def _integer(limit: Limit) -> _Field:
    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not int:
            raise MessageMalformed("a field is not an int")
        _bound(value, limit)
        out.append(struct.pack(">Q", value))

    def read(reader: _Reader) -> int:
        value = int.from_bytes(reader.take(8), "big")
        _bound(value, limit)
        return value

    return _Field(write, read)


def _bytes(limit: Limit) -> _Field:
    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not bytes:
            raise MessageMalformed("a field is not bytes")
        _bound(len(value), limit)
        out.append(struct.pack(">I", len(value)))
        out.append(value)

    def read(reader: _Reader) -> bytes:
        size = reader.length()
        _bound(size, limit)
        return reader.take(size)

    return _Field(write, read)


def _text(limit: Limit) -> _Field:
    def check(text: str) -> None:
        if limit.pattern is not None and not limit.pattern.fullmatch(text):
            raise MessageMalformed("a name has characters that are not allowed")

    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not str:
            raise MessageMalformed("a field is not text")
        try:
            data = value.encode("utf-8")
        except UnicodeEncodeError:
            raise MessageMalformed("a text is not valid Unicode") from None
        _bound(len(data), limit)
        check(value)
        out.append(struct.pack(">I", len(data)))
        out.append(data)

    def read(reader: _Reader) -> str:
        size = reader.length()
        _bound(size, limit)
        try:
            text = reader.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise MessageMalformed("a text is not UTF-8") from None
        check(text)
        return text

    return _Field(write, read)


def _tuple(item: _Field, limit: Limit) -> _Field:
    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not tuple:
            raise MessageMalformed("a field is not a tuple")
        _bound(len(value), limit)
        out.append(struct.pack(">I", len(value)))
        for element in value:
            item.write(element, out)

    def read(reader: _Reader) -> tuple[Any, ...]:
        count = reader.length()
        _bound(count, limit)
        if count > reader.left:
            raise MessageMalformed("a tuple claims more items than bytes are left")
        return tuple(item.read(reader) for _ in range(count))

    return _Field(write, read)


def _optional(kind: Any) -> _Field:
    (inner,) = (_field(part) for part in get_args(kind) if part is not NoneType)

    def write(value: Any, out: list[bytes]) -> None:
        _write_bool(value is not None, out)
        if value is not None:
            inner.write(value, out)

    def read(reader: _Reader) -> Any:
        return inner.read(reader) if _read_bool(reader) else None

    return _Field(write, read)


def _message(kind: Any) -> _Field:
    schema = _schema(kind)

    def write(value: Any, out: list[bytes]) -> None:
        if type(value) is not kind:
            raise MessageMalformed(f"a field is not a {kind.__name__}")
        for name, field in schema:
            field.write(getattr(value, name), out)

    def read(reader: _Reader) -> Any:
        return kind(*(field.read(reader) for _, field in schema))

    return _Field(write, read)
