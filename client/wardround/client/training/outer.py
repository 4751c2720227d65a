"""How a released mean gradient moves the model in mode "one_step". numpy alone.

The mean is already noisy, so whatever is done with it costs no privacy. Everybody who knows the
released means can repeat it to the last bit, the verifier too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


@dataclass(slots=True)
class OuterAdam:
    """Adam (Kingma and Ba, ICLR 2015) on released mean gradients, one step a round."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    steps: int = 0
    first: Vector | None = field(default=None, repr=False)
    second: Vector | None = field(default=None, repr=False)

    def move(self, gradient: Vector) -> Vector:
        """What to add to the model, float32 [D], for the round's mean gradient, float32 [D]."""
        self.steps += 1
        self.first = _decay(self.first, gradient, self.beta1)
        self.second = _decay(self.second, np.square(gradient), self.beta2)
        first = self.first / np.float32(1 - self.beta1**self.steps)
        second = self.second / np.float32(1 - self.beta2**self.steps)
        step: Vector = -np.float32(self.lr) * first / (np.sqrt(second) + np.float32(self.eps))
        return step


@dataclass(slots=True)
class OuterSgd:
    """Gradient descent on released mean gradients."""

    lr: float

    def move(self, gradient: Vector) -> Vector:
        """What to add to the model, float32 [D]."""
        step: Vector = -np.float32(self.lr) * gradient
        return step


def _decay(mean: Vector | None, value: Vector, beta: float) -> Vector:
    """The running mean after one more value, float32 throughout."""
    share: Vector = np.float32(1 - beta) * value
    return share if mean is None else np.float32(beta) * mean + share
