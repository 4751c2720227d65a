"""The loss of a task."""

from __future__ import annotations

from wardround.client.errors import TaskInvalid
from wardround.client.tasks.spec import Kind, TaskSpec
from wardround.client.training.losses import CATALOGUE, LossName, PerSampleLoss

_USUAL: dict[Kind, LossName] = {
    "image-classification-2d": "cross-entropy",
    "image-classification-3d": "cross-entropy",
    "segmentation-2d": "dice-ce",
    "segmentation-3d": "dice-ce",
    "tabular": "cross-entropy",
    "tabular-moments": "half-square",
}


def per_sample_loss(task: TaskSpec) -> PerSampleLoss:
    """The task's loss, one number for each sample. Raises TaskInvalid for a name not known."""
    name = task.loss or _USUAL[task.kind]
    if name not in CATALOGUE:
        raise TaskInvalid(f"unknown loss {name!r}: one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
