"""Strict records: frozen dataclasses whose every field carries its own rule.

A record checks itself when it is made, so none exists that could not be logged, and `from_json`
accepts exactly what `to_json` writes: no missing field, no extra one, no value of another type.
Text is one line without markup, so nothing a site says can break out of a report or a terminal.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

from wardround.privacy.canonical import Json
from wardround.privacy.errors import MalformedData

MAX_ITEMS = 4096


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text that matches one regular expression as a whole; `words` say it to a person."""

    expression: str
    words: str

    def check(self, where: str, value: str) -> None:
        """Raise MalformedData when `value` does not match."""
        if not _compiled(self.expression).fullmatch(value):
            raise MalformedData(f"{where} is {value[:40]!a}, not {self.words}")


@dataclass(frozen=True, slots=True)
class Range:
    """An integer between two bounds, both included."""

    low: int
    high: int

    def check(self, where: str, value: int) -> None:
        """Raise MalformedData when `value` is outside."""
        if not self.low <= value <= self.high:
            raise MalformedData(f"{where} is {value}, not between {self.low} and {self.high}")


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


# One line: no control characters, no line or paragraph separators, no characters that turn the
# direction of writing around, and no angle brackets, which would be markup in a report.
_LINE = (
    "[^\\x00-\\x1f<>\\x7f-\\x9f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ud800-\\udfff\\ufeff]"
)
_NAME = "[A-Za-z0-9][A-Za-z0-9._:/@+ -]{0,126}[A-Za-z0-9+]|[A-Za-z0-9]"
_DECIMAL = "(?:0|[1-9][0-9]{0,17})(?:\\.[0-9]{1,18})?(?:e[+-]?[0-9]{1,3})?|inf"

Hex32 = Annotated[str, Pattern("[0-9a-f]{64}", "64 hexadecimal digits")]
MaybeHex32 = Annotated[str, Pattern("(?:[0-9a-f]{64})?", "64 hexadecimal digits or empty")]
Hex64 = Annotated[str, Pattern("[0-9a-f]{128}", "128 hexadecimal digits")]
HexBytes = Annotated[str, Pattern("(?:[0-9a-f]{2}){0,262144}", "hexadecimal bytes")]
Name = Annotated[str, Pattern(_NAME, "a name of letters, digits and ._:/@+-")]
MaybeName = Annotated[str, Pattern(f"(?:{_NAME})?", "a name or empty")]
Site = Annotated[str, Pattern("[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", "a site name")]
MaybeSite = Annotated[str, Pattern("(?:[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?)?", "a site name")]
Line = Annotated[str, Pattern(f"{_LINE}{{0,500}}", "one line of text without markup")]
Document = Annotated[str, Pattern("[\\x20-\\x7e]{0,262144}", "one line of ASCII text")]
Decimal = Annotated[str, Pattern(_DECIMAL, "a decimal number of zero or more")]
MaybeDecimal = Annotated[str, Pattern(f"(?:{_DECIMAL})?", "a decimal number or empty")]
Count = Annotated[int, Range(0, 2**63 - 1)]
Small = Annotated[int, Range(0, 2**31 - 1)]
MAX_MILLIS = 253_402_300_799_999  # the end of the year 9999: later no calendar here writes a date
Millis = Annotated[int, Range(0, MAX_MILLIS)]  # milliseconds since 1970 UTC


class Record:
    """Base of every record; subclasses are frozen dataclasses with slots."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, check, _ in _plan(type(self)):
            check(name, getattr(self, name))

    def to_json(self) -> dict[str, Json]:
        """Return the object of this record for `canonical.dumps`."""
        return {name: _plain(getattr(self, name)) for name, _, _ in _plan(type(self))}

    @classmethod
    def from_json(cls, value: Json) -> Self:
        """Read what `to_json` gave; MalformedData for anything else."""
        plan = _plan(cls)
        if not isinstance(value, Mapping):
            raise MalformedData(f"{cls.__name__} is not an object")
        if len(value) != len(plan) or any(name not in value for name, _, _ in plan):
            wanted = {name for name, _, _ in plan}
            wrong = ", ".join(sorted(wanted.symmetric_difference(value)))
            raise MalformedData(f"{cls.__name__} has missing or unknown fields: {wrong[:200]!a}")
        return cls(**{n: convert(value[n]) if convert else value[n] for n, _, convert in plan})


_ENCODER = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def write(value: Json) -> bytes:
    """`canonical.dumps` for what records gave: quicker, as their rules have checked it already.

    The same bytes: a record holds neither a fraction nor an integer beyond 63 bits.
    """
    return _ENCODER.encode(value).encode("ascii")


def read_exact(data: bytes) -> Any:
    """Return the JSON value of `data`, which must be written as `canonical.dumps` writes it.

    Quicker than `canonical.loads`, and enough where records check the value: what is written
    back as the same bytes has no duplicate key, no space and no second spelling; numbers that
    are not integers, and integers out of range, are for the records' own rules to refuse.
    Raises MalformedData.
    """
    try:
        text = data.decode("ascii")
        value = json.loads(text)
        if _ENCODER.encode(value) == text:
            return value
    except (ValueError, RecursionError) as error:
        raise MalformedData(f"not canonical JSON: {error}") from None
    raise MalformedData("JSON text is not in canonical form (keys, order, spaces or escapes)")


def one_line(text: str, limit: int = 500) -> str:
    """Return `text` made fit for a `Line` field: one line, no markup, at most `limit` long."""
    return re.sub(f"(?!{_LINE}).", " ", text, flags=re.DOTALL)[:limit].strip()


Check = Callable[[str, Any], None]
Convert = Callable[[Any], Any]


Plan = tuple[tuple[str, Check, Convert | None], ...]
_plans: dict[type[Record], Plan] = {}


def _plan(cls: type[Record]) -> Plan:
    """Return name, check and conversion of each field, worked out once a class."""
    if cls not in _plans:
        hints = get_type_hints(cls, include_extras=True)
        _plans[cls] = tuple((f.name, *_rule(hints[f.name])) for f in fields(cls))  # type: ignore[arg-type]  # every subclass is a dataclass
    return _plans[cls]


def _rule(hint: Any) -> tuple[Check, Convert | None]:
    if get_origin(hint) is Annotated:
        kind, rule = get_args(hint)
        if isinstance(rule, Pattern):
            return _text(rule), None
        return _scalar(kind, rule.check), None
    if get_origin(hint) is tuple:
        check, convert = _rule(get_args(hint)[0])
        return _each(check), _tuple(convert)
    if hint is bool:
        return _scalar(bool, lambda where, value: None), None
    return _scalar(hint, lambda where, value: None), hint.from_json


def _text(rule: Pattern) -> Check:
    matches = _compiled(rule.expression).fullmatch  # bound once: leaves are read by the million

    def check(where: str, value: Any) -> None:
        if type(value) is not str:
            raise MalformedData(f"{where} is a {type(value).__name__}, not a str")
        if not matches(value):
            rule.check(where, value)

    return check


def _scalar(kind: type, rule: Check) -> Check:
    def check(where: str, value: Any) -> None:
        if type(value) is not kind:  # exactly: True is not an integer here
            raise MalformedData(f"{where} is a {type(value).__name__}, not a {kind.__name__}")
        rule(where, value)

    return check


def _each(item: Check) -> Check:
    def check(where: str, value: Any) -> None:
        if type(value) is not tuple or len(value) > MAX_ITEMS:
            raise MalformedData(f"{where} is not a list of at most {MAX_ITEMS}")
        for one in value:
            item(where, one)

    return check


def _tuple(convert: Convert | None) -> Convert:
    def build(value: Any) -> Any:
        if type(value) is not list:
            raise MalformedData("a list is expected")
        return tuple(map(convert, value)) if convert else tuple(value)

    return build


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.to_json() if isinstance(value, Record) else value
