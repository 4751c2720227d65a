"""Canonical JSON: the one byte form of everything that is hashed, signed or logged as text.

ASCII only, keys sorted, no white space, integers and strings but no floating-point numbers (a
decimal is written as a string). Reading is strict: whatever would not be written back as the very
same bytes is refused, so two readers can never see two meanings in one signed text. The form is
a subset of RFC 8785 (JCS), narrowed to what needs no number formatting rules.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeAlias

from wardround.privacy.errors import MalformedData

Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1


def dumps(value: Json) -> bytes:
    """Return the canonical bytes of `value`.

    Raises MalformedData for a float, a key that is not text, an integer beyond 63 bits, or
    nesting deeper than `MAX_DEPTH`.
    """
    _check(value, MAX_DEPTH)
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return text.encode("ascii")


def loads(data: bytes, *, max_bytes: int = MAX_BYTES) -> Json:
    """Return the value of canonical `data`.

    Raises MalformedData for anything that `dumps` would not have written byte for byte: floats,
    duplicate or unsorted keys, white space, escapes with another spelling, too much of it.
    """
    if len(data) > max_bytes:
        raise MalformedData(f"JSON text of {len(data)} bytes; at most {max_bytes} are accepted")
    try:
        value: Json = json.loads(
            data.decode("ascii"),
            object_pairs_hook=_object,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except (ValueError, RecursionError) as error:
        raise MalformedData(f"not canonical JSON: {error}") from None
    if dumps(value) != data:
        raise MalformedData("JSON text is not in canonical form (key order, spaces or escapes)")
    return value


def loads_object(data: bytes, *, max_bytes: int = MAX_BYTES) -> dict[str, Json]:
    """Like `loads`, for a text that must be an object."""
    value = loads(data, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise MalformedData("JSON text is not an object")
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"number {text[:20]!r} is not an integer")


def _check(value: Json, depth: int) -> None:
    if depth == 0:
        raise MalformedData(f"JSON nested deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise MalformedData("integer does not fit 63 bits")
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise MalformedData("JSON key is not text")
            _check(item, depth - 1)
        return
    if isinstance(value, list | tuple):
        for item in value:
            _check(item, depth - 1)
        return
    raise MalformedData(f"a {type(value).__name__} has no canonical JSON form; write it as text")
