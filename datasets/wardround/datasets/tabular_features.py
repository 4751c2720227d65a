"""From checked rows to numbers: gaps filled, numbers scaled, categories spread over columns.

`scaling = "schema"`, the default: constants that the schema states, the same at every site,
depending on no patient. `scaling = "site"`: mean and deviation of the site's training rows, kept
at the site and never sent. They depend on patients, so the differential privacy of the training,
which takes inputs as given, does not cover them; every spend on such a table says so.
A gap becomes the centre (0 after scaling); a missing category has 0 in all its columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wardround.datasets.errors import CohortInvalid
from wardround.datasets.tabular import Row
from wardround.datasets.tabular_schema import Schema
from wardround.privacy import canonical

_UNFIT = "the stored scaling does not fit the schema; add the table again"

Features: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scaler:
    """Centre and scale of each number column, in the schema's order; hidden in repr."""

    centre: tuple[float, ...] = field(repr=False)
    scale: tuple[float, ...] = field(repr=False)

    @classmethod
    def fit(cls, rows: Sequence[Row], schema: Schema) -> "Scaler":
        """Return the schema's constants, or mean and deviation (n - 1) of `rows`.

        A column with fewer than two values, or one value only, gets the schema's constants.
        """
        centre: list[float] = []
        scale: list[float] = []
        for place, column in enumerate(schema.columns):
            if column.type == "category":
                continue
            known = [v for row in rows if isinstance(v := row.values[place], float)]
            mean, deviation = column.centre, column.scale
            if schema.scaling == "site" and len(known) > 1 and min(known) < max(known):
                mean, deviation = float(np.mean(known)), float(np.std(known, ddof=1))
            centre.append(mean)
            scale.append(deviation)
        return cls(tuple(centre), tuple(scale))

    def apply(self, row: Row, schema: Schema) -> Features:
        """Return `row` as float32 [len(schema.features)]."""
        result: list[float] = []
        number = 0
        for column, value in zip(schema.columns, row.values, strict=True):
            if column.type == "category":
                levels = column.categories[1:] if schema.drop_first else column.categories
                result += [float(value == level) for level in levels]
            else:
                known = float(value) if isinstance(value, float) else self.centre[number]
                result.append((known - self.centre[number]) / self.scale[number])
                number += 1
        return np.asarray(result, dtype=np.float32)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of the constants; decimals are written as text."""
        return canonical.dumps(
            {"centre": [repr(n) for n in self.centre], "scale": [repr(n) for n in self.scale]}
        )

    @classmethod
    def from_bytes(cls, data: bytes, schema: Schema) -> "Scaler":
        """Read what `to_bytes` wrote; CohortInvalid when it does not fit the schema."""
        value = canonical.loads_object(data)
        numbers = sum(column.type != "category" for column in schema.columns)
        parts: list[tuple[float, ...]] = []
        for name in ("centre", "scale"):
            texts = value.get(name)
            if not isinstance(texts, list) or len(texts) != numbers:
                raise CohortInvalid(_UNFIT)
            parts.append(tuple(float(str(text)) for text in texts))
        found = cls(*parts)
        if schema.scaling == "schema" and found != cls.fit((), schema):
            raise CohortInvalid(_UNFIT)  # made of rows, which the schema does not say
        return found
