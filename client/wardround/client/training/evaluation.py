"""How well a model does on held-out data, as whole numbers that a secure sum can add.

A site's own figures never leave it alone: these counters ride masked in the same sum as its update.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from wardround.client.training.data import TrainingData

_BATCH = 64


class Evaluated(Protocol):
    """What evaluation asks of a task."""

    @property
    def kind(self) -> str:
        """The kind of task."""

    @property
    def classes(self) -> int:
        """How many classes."""


def counters(task: Evaluated) -> tuple[str, ...]:
    """The names that `evaluate` answers for this task, in order."""
    if task.kind.startswith("segmentation"):
        parts = ("overlap", "truth", "predicted")
        return ("evaluated", *(f"{p}_{c}" for c in range(1, task.classes) for p in parts))
    if task.kind == "tabular-moments":
        return ("evaluated",)
    return ("evaluated", "correct")


@torch.no_grad()
def evaluate(model: nn.Module, data: TrainingData, task: Evaluated) -> dict[str, int]:
    """Count over all samples of `data`; keys as `counters(task)`.

    Classification and tables: samples, and those whose class is right (moments: samples alone).
    Segmentation: for each class but the background the voxels of overlap, truth and prediction;
    Dice over all cases is 2 * overlap / (truth + predicted).
    """
    result = dict.fromkeys(counters(task), 0)
    device = next(model.parameters()).device
    model.eval()
    for chosen in np.array_split(np.arange(len(data.owners)), max(1, len(data.owners) // _BATCH)):
        if not chosen.size:
            continue
        inputs, targets = data.samples(chosen.astype(np.int64))
        found, truth = classes_of(model(inputs.to(device))), targets.to(device)
        result["evaluated"] += len(chosen)
        if task.kind == "tabular-moments":
            continue
        if not task.kind.startswith("segmentation"):
            result["correct"] += int((found == truth.reshape(found.shape)).sum())
            continue
        for c in range(1, task.classes):
            result[f"overlap_{c}"] += int(((found == c) & (truth == c)).sum())
            result[f"truth_{c}"] += int((truth == c).sum())
            result[f"predicted_{c}"] += int((found == c).sum())
    return result


def classes_of(outputs: Tensor) -> Tensor:
    """The class of each sample or voxel; one output is the logit of class 1."""
    if outputs.dim() == 1 or outputs.shape[1] == 1:
        return (outputs.reshape(outputs.shape[0], *outputs.shape[2:]) > 0).long()
    return outputs.argmax(1)


def dice(counts: dict[str, int], classes: int) -> float:
    """Mean Dice over the classes but the background; a class nobody has and finds counts as 1."""
    scores = []
    for c in range(1, classes):
        size = counts[f"truth_{c}"] + counts[f"predicted_{c}"]
        scores.append(2 * counts[f"overlap_{c}"] / size if size else 1.0)
    return sum(scores) / len(scores)
