"""The optimisers of local steps: AdamW without weight decay, and plain SGD.

They are PyTorch's own, called as functions. The classes of `torch.optim` load PyTorch's compiler
as soon as one of them is made, which takes some seconds in each process that trains, and nothing
here is ever compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd


class Optimiser(Protocol):
    """Moves the parameters that it was made for."""

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move each parameter by its gradient, in place."""


class AdamW:
    """`torch.optim.AdamW` with its defaults and no weight decay."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._lr = lr
        self._means = [torch.zeros_like(each) for each in parameters]
        self._squares = [torch.zeros_like(each) for each in parameters]
        self._steps = [torch.tensor(0.0, dtype=torch.float32) for _ in parameters]

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move each parameter by its gradient, in place."""
        with torch.no_grad():
            adamw(
                self._parameters,
                list(gradients),
                self._means,
                self._squares,
                [],
                self._steps,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self._lr,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )


class Sgd:
    """`torch.optim.SGD` with its defaults."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._lr = lr

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move each parameter by its gradient, in place."""
        with torch.no_grad():
            sgd(
                self._parameters,
                list(gradients),
                [None] * len(self._parameters),
                weight_decay=0.0,
                momentum=0.0,
                lr=self._lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
