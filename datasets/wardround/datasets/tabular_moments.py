"""Mean and variance over all sites, for a scaling that is common to them.

A row adds one vector: for each number column whether it has a value, the value, and its square
(0 where it is missing), the value mapped to -1..1 by the schema's range. The mean of these vectors
over all rows of all sites gives the pooled moments, and the scaling follows from it.

A study of the task "tabular-moments" makes that mean: its sites add noise to their sums, account
for it in their ledgers, and open only the sum over all of them, as in any other study. What comes
out is a release under differential privacy; the rest here is arithmetic on it.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wardround.datasets.errors import DataError
from wardround.datasets.tabular import Row
from wardround.datasets.tabular_features import Scaler
from wardround.datasets.tabular_schema import Column, Schema

Vector: TypeAlias = NDArray[np.float32]
FEWEST = 0.1


def row_moments(row: Row, schema: Schema) -> Vector:
    """Return what one row adds: float32 [3 * number columns], in -1..1."""
    columns = _numbers(schema)
    moments = np.zeros((3, len(columns)), dtype=np.float32)
    for number, (place, column) in enumerate(columns):
        value = row.values[place]
        if isinstance(value, float):
            middle, half = _span(column)
            mapped = (value - middle) / half
            moments[:, number] = 1.0, mapped, mapped**2
    return moments.reshape(-1)


def scaler(mean: NDArray[np.floating], schema: Schema) -> Scaler:
    """Return the common scaling from the mean of all rows' vectors.

    A column keeps the schema's constants when less than a tenth of the rows have a value, when
    its values are all one, and when the noise hides its spread. Raises DataError for a vector of
    another length.
    """
    columns = _numbers(schema)
    if mean.shape != (3 * len(columns),):
        raise DataError("the common moments do not fit the schema")
    observed, first, second = mean.astype(np.float64).reshape(3, -1)
    centre: list[float] = []
    scale: list[float] = []
    for number, (_, column) in enumerate(columns):
        middle, half = _span(column)
        here = observed[number]
        average = first[number] / here if here >= FEWEST else 0.0
        variance = second[number] / here - average**2 if here >= FEWEST else 0.0
        if variance > 1e-9 and abs(average) <= 1:
            centre.append(middle + half * float(average))
            scale.append(half * float(np.sqrt(variance)))
        else:
            centre.append(column.centre)
            scale.append(column.scale)
    return Scaler(tuple(centre), tuple(scale))


def schema_lines(common: Scaler, schema: Schema) -> str:
    """Return the lines to put into a schema (TOML) that make `common` its scaling."""
    lines = ['scaling = "schema"  # in [table]']
    for (_, column), centre, scale in zip(
        _numbers(schema), common.centre, common.scale, strict=True
    ):
        lines += ["", f"[columns.{column.name}]", f"centre = {centre:.6g}", f"scale = {scale:.6g}"]
    return "\n".join(lines) + "\n"


def _numbers(schema: Schema) -> list[tuple[int, Column]]:
    return [(n, column) for n, column in enumerate(schema.columns) if column.type != "category"]


def _span(column: Column) -> tuple[float, float]:
    return (column.low + column.high) / 2, (column.high - column.low) / 2
