"""How a mean moves the model: against a loop in double precision, and over a restart."""

import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.privacy.model import TensorLayout, Vector
from wardround.privacy.optimiser import Optimiser
from wardround.privacy.plan import (
    Model,
    Participants,
    Privacy,
    SecureAggregation,
    Study,
    StudyPlan,
    Task,
    Training,
)

SIZE = 7
LOCAL = StudyPlan(
    study=Study("shapes", "Shapes", "to test", "none"),
    task=Task("tabular", ("no", "yes"), (5,)),
    model=Model("mlp", 1, (TensorLayout("weight", (SIZE,)),)),
    training=Training(4, "local_steps", 2, "adamw", Decimal("0.05")),
    privacy=Privacy(
        *("patient", "add-remove", Decimal(1), Decimal("1.1"), Decimal("0.25")),
        *(Decimal(3), Decimal("1e-5")),
    ),
    secure_aggregation=SecureAggregation(3, 1, 3, 500, Decimal(1)),
    participants=Participants(("north", "south", "west")),
)
ADAM = replace(LOCAL, training=Training(4, "one_step", 1, "adamw", Decimal("0.05")))
SGD = replace(LOCAL, training=Training(4, "one_step", 1, "sgd", Decimal("0.05")))


def vectors(seed: int, count: int) -> list[Vector]:
    """Invented means of very different size."""
    draw = np.random.default_rng(seed)
    sizes = 10.0 ** draw.integers(-4, 2, (count, SIZE))
    return list((draw.normal(size=(count, SIZE)) * sizes).astype(np.float32))


def reference_adam(model: Vector, means: list[Vector], rate: float) -> list[float]:
    """Algorithm 1 of Kingma and Ba (ICLR 2015), number by number."""
    result = []
    for index, start in enumerate(model.tolist()):
        value, first, second = start, 0.0, 0.0
        for step, mean in enumerate(means, start=1):
            gradient = float(mean[index])
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient * gradient
            fair_first = first / (1 - 0.9**step)
            fair_second = second / (1 - 0.999**step)
            value -= rate * fair_first / (math.sqrt(fair_second) + 1e-8)
        result.append(value)
    return result


def moved(optimiser: Optimiser, model: Vector, means: list[Vector]) -> Vector:
    for mean in means:
        model = optimiser.move(model, mean)
    return model


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_updates_of_local_steps_are_added(optimiser: str) -> None:
    plan = replace(LOCAL, training=replace(LOCAL.training, optimiser=optimiser))
    model, *means = vectors(1, 4)
    found = moved(Optimiser(plan), model, means)
    expected = np.sum([model, *means], axis=0, dtype=np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32
    assert Optimiser(plan).save() == b""


def test_a_gradient_step_goes_against_the_mean() -> None:
    model, *means = vectors(2, 5)
    found = moved(Optimiser(SGD), model, means)
    expected = model.astype(np.float64) - 0.05 * np.sum(means, axis=0, dtype=np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_adam_is_that_of_the_paper(seed: int, steps: int) -> None:
    model, *means = vectors(seed, steps + 1)
    found = moved(Optimiser(ADAM), model, means)
    np.testing.assert_allclose(found, reference_adam(model, means, 0.05), rtol=2e-5, atol=2e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("plan", [LOCAL, SGD, ADAM], ids=["local", "sgd", "adam"])
@pytest.mark.parametrize("stop", range(4))
def test_an_optimiser_that_was_saved_goes_on_bit_for_bit(plan: StudyPlan, stop: int) -> None:
    model, *means = vectors(3, 5)
    through = Optimiser(plan)
    expected = moved(through, model, means)
    before = Optimiser(plan)
    half = moved(before, model, means[:stop])
    after = Optimiser.resume(plan, before.save())
    assert (moved(after, half, means[stop:]) == expected).all()
    assert after.save() == through.save()


def test_the_model_that_was_given_is_left_as_it_was() -> None:
    model, mean = vectors(4, 2)
    before = model.copy()
    for plan in (LOCAL, SGD, ADAM):
        Optimiser(plan).move(model, mean)
        assert (model == before).all()
