"""Writes a report's records as JSON values, for machines that read the report."""

from dataclasses import fields, is_dataclass
from enum import Enum

from wardround.privacy.canonical import Json
from wardround.privacy.presentation.marks import Marked


def plain(value: object) -> Json:
    """Return the JSON form of a tree of frozen records, or of several by their names.

    A marked value becomes `{"value", "source", "entries"}`. Raises TypeError for a type that a
    report's records do not use.
    """
    if isinstance(value, Marked):
        return {
            "value": plain(value.value),
            "source": value.source.value,
            "entries": list(value.entries),
        }
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"a report cannot hold a {type(value).__name__}")
