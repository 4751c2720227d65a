"""How the models of the reference are trained: by a study plan, as the product trains.

The plan of each cell is a real `StudyPlan`; the site's `Trainer`, the protected sum among the sites
and the coordinator's `Optimiser` do what it says. So nothing is tried that a plan cannot ask for.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Literal

import numpy as np
from reference_data import Part, joined
from reference_federation import Federation
from torch import nn

from wardround.client.tasks import TaskSpec, arrays, build, load_arrays, per_sample_loss
from wardround.client.trainer import Trainer, settings, tensor_layout
from wardround.client.training import TensorData, train_plain, train_round
from wardround.privacy.model import Vector, flatten, initial_vector, unflatten
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
from wardround.privacy.planned import suggest

NONE = "none"
Change = Callable[[str, Vector], tuple[Vector, int]]
"""A site's round: its name and the model [D] before; the update [D] and its weight."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one way trains: `rounds` of `steps` noisy steps each, at sample rate `rate`."""

    rounds: int
    steps: int
    rate: str
    optimiser: Literal["sgd", "adamw"]
    mode: Literal["local_steps", "one_step"] = "local_steps"
    clip: str = "1"


@cache
def noise_multiplier(target: str, delta: str, rate: str, steps: int) -> Decimal:
    """The least sigma, in hundredths, whose `steps` steps cost at most epsilon `target`."""
    found = suggest(Decimal(target), Decimal(delta), 1, steps=(steps,), rates=(Decimal(rate),))
    return found[0].sigma


def study(
    task: TaskSpec,
    recipe: Recipe,
    sites: dict[str, Part],
    *,
    target: str,
    delta: str,
    lr: str,
    seed: int,
) -> StudyPlan:
    """The plan of one cell; with target "none" its noise is never used."""
    private = target != NONE
    steps = recipe.rounds * recipe.steps
    return StudyPlan(
        study=Study("reference", "Reference", "reference figures", "public data"),
        task=Task(
            task.kind,  # type: ignore[arg-type] # one of the plan's three kinds
            tuple(f"class {c}" for c in range(task.classes)),
            task.input_shape,
        ),
        model=Model(task.model, seed, tensor_layout(build(task)), tuple(task.args.items())),
        training=Training(
            recipe.rounds, recipe.mode, recipe.steps, recipe.optimiser, Decimal(lr), microbatch=256
        ),
        privacy=Privacy(
            "patient",
            "add-remove",
            clip=Decimal(recipe.clip),
            noise_multiplier=noise_multiplier(target, delta, recipe.rate, steps)
            if private
            else Decimal(1),
            sample_rate=Decimal(recipe.rate),
            target_epsilon=Decimal(target if private else 100),
            delta=Decimal(delta),
        ),
        secure_aggregation=SecureAggregation(
            threshold=len(sites) // 2 + 1,
            colluders=0,
            min_cohort=max(3, len(sites) // 2 + 1),
            max_weight=2 * max(map(len, sites.values())),
            update_clip=Decimal(4),
        ),
        participants=Participants(tuple(sorted(sites))),
    )


def federated(plan: StudyPlan, task: TaskSpec, sites: dict[str, Part], private: bool) -> Vector:
    """Train among the sites, every round through the protected sum; the last model [D]."""
    change = _private(plan, task, sites) if private else _plain(plan, task, sites)
    federation, optimiser = Federation(plan), Optimiser(plan)
    vector = initial_vector(plan.model.tensors, plan.model.seed)
    for _ in range(plan.training.rounds):
        vector = optimiser.move(vector, federation.aggregate(vector, change))
    return vector


def single(plan: StudyPlan, task: TaskSpec, parts: list[Part], private: bool) -> Vector:
    """Train at one place that holds all of `parts`; the last model [D]."""
    part = joined(parts)
    vector = initial_vector(plan.model.tensors, plan.model.seed)
    if private:
        model = _model(plan, task, vector)
        train_round(model, _data(part), settings(plan), per_sample_loss(task))
        return _vector(plan, model)
    update, _ = _plain(plan, task, {"all": part})("all", vector)
    return vector + update


def _private(plan: StudyPlan, task: TaskSpec, sites: dict[str, Part]) -> Change:
    trainers = {
        name: Trainer(plan, "cpu", build(task), _data(part), _data(part))
        for name, part in sites.items()
    }
    return lambda name, vector: trainers[name].train(vector, say=lambda _: None)


def _plain(plan: StudyPlan, task: TaskSpec, sites: dict[str, Part]) -> Change:
    """A site's round without clip and noise, for comparison."""
    training, loss = plan.training, per_sample_loss(task)
    gradient = training.mode == "one_step"

    def change(name: str, vector: Vector) -> tuple[Vector, int]:
        part = sites[name]
        model = _model(plan, task, vector)
        train_plain(
            model,
            _data(part),
            loss,
            steps=plan.steps_per_round,
            batch=max(1, round(len(part) * float(plan.privacy.sample_rate))),
            # One step of plain gradient descent with rate 1 moves the model by minus the gradient.
            lr=1.0 if gradient else float(training.learning_rate),
            optimiser="sgd" if gradient else training.optimiser,
            seed=secrets.randbits(32),
        )
        moved = _vector(plan, model) - vector
        bound = np.float32(plan.secure_aggregation.update_clip)
        return np.clip(-moved if gradient else moved, -bound, bound), len(part)

    return change


def _model(plan: StudyPlan, task: TaskSpec, vector: Vector) -> nn.Module:
    model = build(task)
    load_arrays(model, unflatten(plan.model.tensors, vector))
    return model


def _vector(plan: StudyPlan, model: nn.Module) -> Vector:
    return flatten(plan.model.tensors, arrays(model))


def _data(part: Part) -> TensorData:
    """Every sample is a patient of its own: neither data set names patients."""
    return TensorData(part.inputs, part.targets)
