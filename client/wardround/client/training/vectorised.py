"""The fallback for models the book-keeping engine cannot follow: vmap over the whole model.

torch.func differentiates a functional copy of the model for one sample, and vmap runs it over all.
Exact for whatever vmap can run; slower and larger, because every gradient is written out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from wardround.client.training.engine import Loss, checked_losses, mean_share, trainable
from wardround.client.training.tape import ClippedSum, Tape, Units, clipped_sum


class VectorisedGradients:
    """Per-sample gradients of any model that torch.func.vmap can run."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def clipped_sum(
        self, loss: Loss, inputs: Tensor, targets: Tensor, units: Units, clip: float
    ) -> ClippedSum:
        """Sum over units of their mean gradient, each clipped to `clip` in L2."""
        gradients = self.per_sample(loss, inputs, targets)
        share = mean_share(units)
        if share is not None:
            for gradient in gradients.values():
                gradient *= share.to(gradient.dtype).reshape(-1, *[1] * (gradient.dim() - 1))
        return clipped_sum(Tape(explicit=gradients), units, clip)

    def per_sample(self, loss: Loss, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The gradient of each sample's loss, name -> [B, *shape]."""
        parameters = {n: p.detach() for n, p in trainable(self.model).items()}

        def of_one(values: dict[str, Tensor], one: Tensor, target: Tensor) -> Tensor:
            outputs = functional_call(self.model, values, (one.unsqueeze(0),))
            return checked_losses(loss, outputs, target.unsqueeze(0))[0]

        each: Any = vmap(grad(of_one), in_dims=(None, 0, 0), randomness="different")
        gradients: dict[str, Tensor] = each(parameters, inputs, targets)
        return {name: g.detach() for name, g in gradients.items()}


def loop(model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The reference: one ordinary backward pass for each sample alone, name -> [B, *shape]."""
    parameters = trainable(model)
    rows: list[tuple[Tensor, ...]] = []
    for one, target in zip(inputs[:, None], targets[:, None], strict=True):
        value = checked_losses(loss, model(one), target).sum()
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        rows.append(
            tuple(
                torch.zeros_like(p) if g is None else g
                for g, p in zip(found, parameters.values(), strict=True)
            )
        )
    return {n: torch.stack([r[i] for r in rows]) for i, n in enumerate(parameters)}
