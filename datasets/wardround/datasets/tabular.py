"""Tables (CSV and Parquet) read by their schema: every row checked, every value of a known kind.

CSV is text in UTF-8; of Parquet only the columns of the schema are read, after its footer has
said how large they are. A row that breaks the schema is left out with its reason (or, if the
schema says so, its value counts as missing); the others are used.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from wardround.datasets.check_findings import Finding
from wardround.datasets.cohort_layout import part
from wardround.datasets.errors import DataError, FileRefused
from wardround.datasets.scan_guard import MEBIBYTE, read_file
from wardround.datasets.tabular_schema import Column, Schema

MAX_BYTES = 512 * MEBIBYTE
MAX_ROWS = 5_000_000

Value: TypeAlias = float | str | None
_Cells: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One row that fits the schema. `number` counts rows of data from 1.

    `values` are in the schema's order: a number, a category, or None where it is missing.
    `patient` is "" in a table without a patient column.
    """

    number: int
    label: str
    values: tuple[Value, ...] = field(repr=False)
    patient: str = field(default="", repr=False)
    split: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a table that can be used, and what was wrong with the others."""

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


def read_table(data: bytes, schema: Schema) -> Table:
    """Return the table that `data` (a whole CSV or Parquet file) holds.

    Raises DataError when the file as a whole cannot be used: another encoding, a column of the
    schema that is not there, too many rows.
    """
    cells = _parquet(data, schema) if data.startswith(b"PAR1") else _csv(data, schema)
    rows: list[Row] = []
    findings: list[Finding] = []
    for number, row in enumerate(cells, start=1):
        if number > MAX_ROWS:
            raise DataError(f"the table has more than {MAX_ROWS:,} rows; split it")
        try:
            if row is None:
                raise FileRefused("row-cells")
            rows.append(_row(number, row, schema))
        except FileRefused as refused:
            findings.append(Finding(refused.code, refused.detail, where=f"row {number}"))
    return Table(tuple(rows), tuple(findings))


def open_table(source: Path) -> bytes:
    """Return the bytes of the table file `source`; DataError when it cannot be read."""
    try:
        return read_file(source.parent, source.name, limit=MAX_BYTES)
    except FileRefused as refused:
        finding = Finding(refused.code, refused.detail)
        raise DataError(f"the table cannot be used: {finding.what}; {finding.do}") from None


def _row(number: int, cells: _Cells, schema: Schema) -> Row:
    target = _plain(cells[schema.target])
    if target in schema.target_missing:
        raise FileRefused("row-class")
    label = next((name for name, values in schema.classes if target in values), None)
    if label is None:
        raise FileRefused("value-category", "in the target")
    values: list[Value] = []
    for place, column in enumerate(schema.columns, start=1):
        try:
            values.append(_value(cells[column.name], column))
        except FileRefused as refused:
            if schema.bad_values == "leave out":
                raise FileRefused(refused.code, f"input {place}, {column.name}") from None
            values.append(None)
    if schema.incomplete == "leave out" and None in values:
        raise FileRefused("value-missing")
    patient = _plain(cells[schema.patient]) if schema.patient is not None else ""
    if schema.patient is not None and not patient:
        raise FileRefused("row-patient")
    split = part(cells[schema.split].strip().lower()) if schema.split else ""
    return Row(number, label, tuple(values), patient, split)


def _value(cell: str, column: Column) -> Value:
    text = cell.strip()
    plain = _plain(text)
    if text in column.missing or plain in column.missing:
        return None
    if column.type == "category":
        for category in (text, plain):
            if category in column.categories:
                return category
        raise FileRefused("value-category")
    try:
        number = float(text)
    except ValueError:
        raise FileRefused("value-type") from None
    if not math.isfinite(number) or (column.type == "integer" and not number.is_integer()):
        raise FileRefused("value-type")
    if not column.low <= number <= column.high:
        raise FileRefused("value-range")
    return number


def _plain(cell: str) -> str:
    """Return "1" for "1.0": many exports write categories and record numbers as decimals."""
    text = cell.strip()
    whole, point, rest = text.partition(".")
    if point and whole.lstrip("-").isdigit() and not rest.strip("0"):
        return whole
    return text


def _csv(data: bytes, schema: Schema) -> Iterator[_Cells | None]:
    """Yield each row as column name to text; None for a row of another length."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    # Another encoding, or no text at all, such as a spreadsheet's own format.
    if "\0" in text.partition("\n")[0]:
        raise DataError("the table is not text in UTF-8; export it as CSV in UTF-8, or as Parquet")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=schema.delimiter)
    try:
        names = list(schema.names) or [name.strip() for name in next(reader, [])]
        other = next((sign for sign in ";\t|," if len(names) == 1 and sign in names[0]), "")
        if other and other != schema.delimiter:
            raise DataError(
                f"the table's columns are parted by {other!r}, not by {schema.delimiter!r}; "
                f"say so in the schema: [table] delimiter = {json.dumps(other)}"
            )
        _need(names, schema)
        for cells in reader:
            if cells:
                good = len(cells) == len(names)
                yield dict(zip(names, cells, strict=True)) if good else None
    except csv.Error:
        raise DataError(
            f"the table is not CSV: at or before line {reader.line_num} "
            "a quote is open or a line is endless"
        ) from None


def _parquet(data: bytes, schema: Schema) -> Iterator[_Cells | None]:
    import pyarrow
    from pyarrow import parquet

    try:
        file: Any = parquet.ParquetFile(io.BytesIO(data))
        facts = file.metadata
        unpacked = sum(facts.row_group(n).total_byte_size for n in range(facts.num_row_groups))
        if facts.num_rows > MAX_ROWS or unpacked > MAX_BYTES:
            raise DataError(f"the table is too large: {facts.num_rows:,} rows")
        _need(list(file.schema_arrow.names), schema)
        wanted = [column for column in _names(schema) if column is not None]
        for batch in file.iter_batches(batch_size=10_000, columns=wanted):
            for row in batch.to_pylist():
                yield {name: _text(value) for name, value in row.items()}
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError):
        raise DataError("the table is not a whole Parquet file; export it again") from None


def _names(schema: Schema) -> list[str | None]:
    return [schema.target, schema.patient, schema.split, *(c.name for c in schema.columns)]


def _need(names: list[str], schema: Schema) -> None:
    if len(set(names)) != len(names):
        raise DataError("two columns of the table have one name")
    for wanted in _names(schema):
        if wanted is not None and wanted not in names:
            raise DataError(f"the table has no column {wanted!r}, which the schema names")


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, bytes):  # how some writers of Parquet store text
        return value.decode("utf-8", "replace")
    return str(value)
