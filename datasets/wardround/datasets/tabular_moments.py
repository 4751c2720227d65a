"""Mean and variance over all sites, through the same protected sum as the training.

Each site brings one vector: per number column the share of rows that have a value, and the mean,
over all its rows, of the value and of its square (missing counted as 0), where values are mapped
to -1..1 by the schema's range. Weighted by rows and summed under secure aggregation this gives
the pooled moments, and the coordinator sees no site's own.

The pooled figures are exact: no noise is added, so they are a release of their own beside the
training's differential privacy, for the sites to agree on or not. Off unless a plan asks for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wardround.datasets.errors import DataError
from wardround.datasets.tabular import Row
from wardround.datasets.tabular_features import Scaler
from wardround.datasets.tabular_schema import Column, Schema

Vector: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Moments:
    """One site's contribution: `values` float32 [3 * number columns] in -1..1, `weight` rows."""

    values: Vector
    weight: int


def contribution(rows: Sequence[Row], schema: Schema) -> Moments:
    """Return what this site brings to the sum. Raises DataError when it has no rows."""
    if not rows:
        raise DataError("a site without rows cannot take part in the common scaling")
    columns = _numbers(schema)
    observed, first, second = (np.zeros(len(columns)) for _ in range(3))
    for number, (place, column) in enumerate(columns):
        middle, half = _span(column)
        known = [v for row in rows if isinstance(v := row.values[place], float)]
        mapped = (np.asarray(known, dtype=np.float64) - middle) / half
        observed[number] = len(known) / len(rows)
        first[number] = mapped.sum() / len(rows)
        second[number] = (mapped**2).sum() / len(rows)
    values = np.concatenate([observed, first, second]).astype(np.float32)
    return Moments(values, len(rows))


def scaler(mean: NDArray[np.floating], schema: Schema) -> Scaler:
    """Return the common scaling from the weighted mean of all sites' vectors.

    A column that nobody has values for, or whose values are all one, keeps the schema's
    constants. Raises DataError for a vector of another length.
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
        average = first[number] / here if here > 0 else 0.0
        variance = second[number] / here - average**2 if here > 0 else 0.0
        if variance > 1e-9:
            centre.append(middle + half * float(average))
            scale.append(half * float(np.sqrt(variance)))
        else:
            centre.append(column.centre)
            scale.append(column.scale)
    return Scaler(tuple(centre), tuple(scale))


def _numbers(schema: Schema) -> list[tuple[int, Column]]:
    return [(n, column) for n, column in enumerate(schema.columns) if column.type != "category"]


def _span(column: Column) -> tuple[float, float]:
    return (column.low + column.high) / 2, (column.high - column.low) / 2
