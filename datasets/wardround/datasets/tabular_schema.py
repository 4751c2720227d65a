"""The schema of a table: a TOML file that every site of a study shares, and its strict reading.

    [table]
    patient = "patient"            # column with the patient; without it each row is one patient
    missing = ["", "?"]            # codes for a missing value, in every column
    names = ["age", "sex"]         # the columns, for a CSV file without a header line
    delimiter = ","
    bad_values = "leave out"       # or "missing": what a value that breaks the schema makes
    incomplete = "impute"          # or "leave out": what a row with a missing value gets
    drop_first = false             # leave the first category of each column out (reference level)
    scaling = "schema"             # or "site": see tabular_features

    [target]
    column = "outcome"
    classes = { well = ["0"], ill = ["1", "2"] }

    [columns.age]
    type = "number"                # number, integer, category
    range = [18, 110]
    missing = ["999"]              # further codes, for this column alone
    centre = 58                    # with scaling = "schema"; else the middle of the range
    scale = 12                     # with scaling = "schema"; else a quarter of the range

    [columns.sex]
    type = "category"
    categories = ["F", "M"]

The schema alone decides the features and their order, so that all sites train one model. Columns
that it does not name are not read.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from wardround.datasets.errors import SchemaInvalid

Type: TypeAlias = Literal["number", "integer", "category"]
_TABLE_KEYS = {
    "patient", "split", "missing", "names", "delimiter",
    "bad_values", "incomplete", "drop_first", "scaling",
}  # fmt: skip
_COLUMN_KEYS = {"type", "range", "missing", "categories", "centre", "scale"}


@dataclass(frozen=True, slots=True)
class Column:
    """One input. `low` and `high` bound a number (inclusive); `categories` are texts, in order."""

    name: str
    type: Type
    low: float = 0.0
    high: float = 0.0
    categories: tuple[str, ...] = ()
    missing: frozenset[str] = frozenset()
    centre: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Schema:
    """What a table must look like. `classes` maps class name to the target's values, in order."""

    columns: tuple[Column, ...]
    target: str
    classes: tuple[tuple[str, frozenset[str]], ...]
    target_missing: frozenset[str]
    patient: str | None = None
    split: str | None = None
    names: tuple[str, ...] = ()
    delimiter: str = ","
    bad_values: Literal["leave out", "missing"] = "leave out"
    incomplete: Literal["impute", "leave out"] = "impute"
    drop_first: bool = False
    scaling: Literal["site", "schema"] = "schema"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the schema's order."""
        return tuple(name for name, _ in self.classes)

    @property
    def features(self) -> tuple[str, ...]:
        """The name of every input of the model: a number's column, or `column=category`."""
        names: list[str] = []
        for column in self.columns:
            if column.type == "category":
                levels = column.categories[1:] if self.drop_first else column.categories
                names += [f"{column.name}={level}" for level in levels]
            else:
                names.append(column.name)
        return tuple(names)

    @classmethod
    def from_toml(cls, text: str) -> "Schema":
        """Read a schema. Raises SchemaInvalid with what is wrong and where in the schema."""
        try:
            value = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SchemaInvalid(f"the schema is not TOML: {error}") from None
        if unknown := set(value) - {"table", "target", "columns"}:
            raise SchemaInvalid(f"the schema has an unknown section [{min(unknown)}]")
        table = _section(value, "table", _TABLE_KEYS, required=False)
        target = _section(value, "target", {"column", "classes"}, required=True)
        columns = _section(value, "columns", None, required=True)
        common = frozenset(_texts(table.get("missing", ["", "?"]), "missing"))
        classes = target.get("classes")
        if not isinstance(classes, dict) or len(classes) < 2:
            raise SchemaInvalid("[target] needs classes, two or more, each with its values")
        schema = cls(
            columns=tuple(_column(name, spec, common) for name, spec in columns.items()),
            target=_text(target.get("column"), "[target] column"),
            classes=tuple(
                (name, frozenset(_texts(values, "classes"))) for name, values in classes.items()
            ),
            target_missing=common,
            patient=_optional(table.get("patient"), "patient"),
            split=_optional(table.get("split"), "split"),
            names=tuple(_texts(table.get("names", []), "names")),
            delimiter=_text(table.get("delimiter", ","), "delimiter"),
            bad_values="missing"
            if _choice(table, "bad_values", ("leave out", "missing")) == "missing"
            else "leave out",
            incomplete="leave out"
            if _choice(table, "incomplete", ("impute", "leave out")) == "leave out"
            else "impute",
            drop_first=table.get("drop_first", False) is True,
            scaling="site" if _choice(table, "scaling", ("schema", "site")) == "site" else "schema",
        )
        schema._check()
        return schema

    def _check(self) -> None:
        if not self.columns:
            raise SchemaInvalid("the schema names no column to learn from")
        inputs = {column.name for column in self.columns}
        for role, name in (("target", self.target), ("patient", self.patient)):
            if name in inputs:
                raise SchemaInvalid(f"column {name!r} is the {role} and an input at once")
        seen: set[str] = set()
        for name, values in self.classes:
            if not values or values & seen:
                raise SchemaInvalid(f"class {name!r} has no values, or one of another class")
            seen |= values
        if len(self.delimiter) != 1:
            raise SchemaInvalid("the delimiter is one character")


def _column(name: str, spec: object, common: frozenset[str]) -> Column:
    place = f"[columns.{name}]"
    if not isinstance(spec, dict):
        raise SchemaInvalid(f"{place} is not a section")
    if unknown := set(spec) - _COLUMN_KEYS:
        raise SchemaInvalid(f"{place} has an unknown key {min(unknown)!r}")
    missing = common | frozenset(_texts(spec.get("missing", []), f"{place} missing"))
    kind = spec.get("type")
    if kind == "category":
        categories = _texts(spec.get("categories", []), f"{place} categories")
        if len(categories) < 2 or len(set(categories)) != len(categories):
            raise SchemaInvalid(f"{place} needs two categories or more, each once")
        return Column(name, "category", categories=tuple(categories), missing=missing)
    if kind not in ("number", "integer"):
        raise SchemaInvalid(f"{place} type must be number, integer or category")
    bounds = spec.get("range")
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise SchemaInvalid(f"{place} needs range = [lowest, highest]")
    low, high = (_number(bound, f"{place} range") for bound in bounds)
    if not low < high:
        raise SchemaInvalid(f"{place} range is empty")
    centre = _number(spec.get("centre", (low + high) / 2), f"{place} centre")
    scale = _number(spec.get("scale", (high - low) / 4), f"{place} scale")
    if scale <= 0:
        raise SchemaInvalid(f"{place} scale must be above 0")
    return Column(
        name,
        "integer" if kind == "integer" else "number",
        low=low,
        high=high,
        missing=missing,
        centre=centre,
        scale=scale,
    )


def _section(
    value: Mapping[str, Any], name: str, keys: set[str] | None, *, required: bool
) -> dict[str, Any]:
    section = value.get(name)
    if section is None and not required:
        return {}
    if not isinstance(section, dict):
        raise SchemaInvalid(f"the schema needs a section [{name}]")
    if keys is not None and (unknown := set(section) - keys):
        raise SchemaInvalid(f"[{name}] has an unknown key {min(unknown)!r}")
    return section


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise SchemaInvalid(f"{place} must be text")
    return value


def _optional(value: object, place: str) -> str | None:
    return None if value is None else _text(value, place)


def _texts(value: object, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SchemaInvalid(f'{place} must be a list of texts, such as ["0", "1"]')
    return [str(item) for item in value]


def _number(value: object, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30:
        raise SchemaInvalid(f"{place} must be a number")
    return float(value)


def _choice(table: Mapping[str, Any], key: str, allowed: tuple[str, str]) -> str:
    value = table.get(key, allowed[0])
    if value not in allowed:
        raise SchemaInvalid(f"[table] {key} must be {allowed[0]!r} or {allowed[1]!r}")
    return str(value)
