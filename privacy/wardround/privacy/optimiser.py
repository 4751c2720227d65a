"""How an opened mean moves the global model, in NumPy alone.

With local steps the mean is an update and is added (FedAvg, McMahan et al., AISTATS 2017). With
one noisy step a round it is a gradient: the plan's optimiser takes one step with it, Adam with
its moments carried over the rounds (Kingma and Ba, ICLR 2015; at a server: Reddi et al., ICLR
2021). The mean is noisy already, so nothing that is done with it costs privacy.

The coordinator takes this step, or in group mode every site for itself. All of it is elementwise
and of operations that IEEE 754 rounds correctly, so that every machine gets the same bits.
"""

from dataclasses import dataclass, field
from itertools import repeat
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wardround.privacy.model import Vector
from wardround.privacy.plan import StudyPlan

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


@dataclass(slots=True)
class Optimiser:
    """The step from mean to model of one plan; `first` and `second` are Adam's moments [D]."""

    plan: StudyPlan
    steps: int = 0
    first: Vector = field(default_factory=lambda: np.empty(0, np.float32), repr=False)
    second: Vector = field(default_factory=lambda: np.empty(0, np.float32), repr=False)

    @classmethod
    def resume(cls, plan: StudyPlan, saved: bytes) -> Self:
        """Return the optimiser whose `save` gave `saved`; empty: a fresh one."""
        optimiser = cls(plan)
        if saved:
            optimiser.steps = int.from_bytes(saved[:8], "big")
            moments = np.frombuffer(saved[8:], dtype="<f4").astype(np.float32)
            optimiser.first, optimiser.second = np.split(moments, 2)
        return optimiser

    def save(self) -> bytes:
        """Return the state to go on from; empty when there is none."""
        if not self.steps:
            return b""
        moments = np.concatenate([self.first, self.second]).astype("<f4")
        return self.steps.to_bytes(8, "big") + moments.tobytes()

    def move(self, model: Vector, mean: Vector) -> Vector:
        """Return the model [D] after the mean [D] of a round."""
        training = self.plan.training
        if training.mode == "local_steps":
            return _float32(model + mean)
        rate = np.float32(training.learning_rate)
        if training.optimiser == "sgd":
            return _float32(model - rate * mean)
        if not self.steps:
            self.first, self.second = np.zeros_like(mean), np.zeros_like(mean)
        self.steps += 1
        self.first = _float32(BETA1 * self.first + (1 - BETA1) * mean)
        self.second = _float32(BETA2 * self.second + (1 - BETA2) * np.square(mean))
        # Products, not powers: the last bit of a power is the C library's own.
        first = self.first / np.float32(1 - prod(repeat(BETA1, self.steps)))
        second = self.second / np.float32(1 - prod(repeat(BETA2, self.steps)))
        return _float32(model - rate * first / (np.sqrt(second) + np.float32(EPS)))


def _float32(values: NDArray[np.floating[Any]]) -> Vector:
    return values.astype(np.float32, copy=False)
