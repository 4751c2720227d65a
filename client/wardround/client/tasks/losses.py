"""The loss of a task."""

from __future__ import annotations

import re

from wardround.client.errors import TaskInvalid
from wardround.client.tasks.spec import Kind, TaskSpec
from wardround.client.training.losses import (
    CATALOGUE,
    LossName,
    PerSampleLoss,
    WeightedCrossEntropy,
)

_USUAL: dict[Kind, LossName] = {
    "image-classification-2d": "cross-entropy",
    "image-classification-3d": "cross-entropy",
    "segmentation-2d": "dice-ce",
    "segmentation-3d": "dice-ce",
    "tabular": "cross-entropy",
    "tabular-moments": "half-square",
}


_WEIGHTED = re.compile(r"weighted-cross-entropy\(([0-9.]+(?:, ?[0-9.]+)*)\)")


def per_sample_loss(task: TaskSpec) -> PerSampleLoss:
    """The task's loss, one number for each sample. Raises TaskInvalid for a name not known.

    "weighted-cross-entropy(1, 4.5)" has the weight of each class from the plan, and their mean as
    its normaliser: a fixed one, where torch's own takes it from the batch.
    """
    name = task.loss or _USUAL[task.kind]
    if (match := _WEIGHTED.fullmatch(name)) is not None:
        return _weighted(match[1], task.classes)
    if name not in CATALOGUE:
        raise TaskInvalid(
            f"unknown loss {name!r}: one of {', '.join(CATALOGUE)}, or "
            "weighted-cross-entropy(1, 2) with the weight of each class"
        )
    return CATALOGUE[name]


def _weighted(text: str, classes: int) -> WeightedCrossEntropy:
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if len(weights) != classes or not all(0 < weight < 1e6 for weight in weights):
        raise TaskInvalid(f"weighted-cross-entropy({text}): give {classes} weights above 0")
    return WeightedCrossEntropy(weights, sum(weights) / classes)
