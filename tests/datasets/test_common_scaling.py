"""Mean and variance over all sites go through the protected sum, and come out as if pooled."""

import numpy as np
import pytest
from tests.privacy.secagg.secagg_federation import ready

from wardround.datasets.tabular import Row, read_table
from wardround.datasets.tabular_moments import contribution, scaler
from wardround.datasets.tabular_schema import Schema
from wardround.privacy.model import TensorLayout
from wardround.privacy.secagg import Contribution

SCHEMA = Schema.from_toml(
    """
[table]
patient = "who"
[target]
column = "out"
classes = { no = ["0"], yes = ["1"] }
[columns.age]
type = "integer"
range = [0, 120]
[columns.dose]
type = "number"
range = [-5, 5.5]
missing = ["-9"]
"""
)


def rows_of(site: int) -> tuple[Row, ...]:
    """Sites of unlike size and range, the last one without a single dose."""
    random = np.random.default_rng(site)
    lines = ["who,age,dose,out"]
    for number in range(20 + 30 * site):
        dose = "-9" if site == 2 else f"{random.normal(site, 0.5):.3f}"
        lines.append(f"p{number},{int(random.integers(20 + 10 * site, 60 + 20 * site))},{dose},0")
    return tuple(read_table(("\n".join(lines) + "\n").encode(), SCHEMA).rows)


def test_common_scaling_through_the_protected_sum_is_that_of_the_pooled_rows() -> None:
    federation = ready(
        3, layout=(TensorLayout("moments", (6,)),), counters=(), max_weight=1000, clip=1.0
    )
    tables = [rows_of(site) for site in range(3)]
    parts = [contribution(rows, SCHEMA) for rows in tables]
    federation.run(
        federation.start(),
        {
            name: Contribution(part.values, part.weight)
            for name, part in zip(federation.names, parts, strict=True)
        },
    )
    aggregate = federation.aggregator.result()
    common = scaler(aggregate.mean, SCHEMA)
    assert aggregate.weight == sum(map(len, tables))
    for place in range(2):
        known = [v for rows in tables for row in rows if (v := row.values[place]) is not None]
        values = np.asarray(known, dtype=np.float64)
        assert common.centre[place] == pytest.approx(values.mean(), rel=1e-4)
        assert common.scale[place] == pytest.approx(values.std(), rel=1e-3)
    alone = scaler(parts[0].values, SCHEMA)
    assert alone.centre[0] != pytest.approx(common.centre[0], rel=1e-2)
