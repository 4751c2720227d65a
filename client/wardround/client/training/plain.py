"""Training without privacy: for references and notebooks, never for a study."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from wardround.client.training.data import TrainingData
from wardround.client.training.engine import checked_losses, trainable
from wardround.client.training.losses import PerSampleLoss


def train_plain(
    model: nn.Module,
    data: TrainingData,
    loss: PerSampleLoss,
    *,
    steps: int,
    batch: int,
    lr: float,
    optimiser: Literal["adamw", "sgd"] = "adamw",
    seed: int = 0,
) -> None:
    """Train `model` in place with shuffled batches and NO protection of any patient.

    It exists so that the price of privacy can be measured. Nothing of a study calls it.
    """
    parameters = list(trainable(model).values())
    kind = torch.optim.SGD if optimiser == "sgd" else torch.optim.AdamW
    steer = kind(parameters, lr=lr, weight_decay=0.0)
    order = np.random.default_rng(seed)
    count = len(data.owners)
    model.train()
    queue = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(queue) < batch:
            queue = np.concatenate([queue, order.permutation(count)])
        chosen, queue = queue[:batch], queue[batch:]
        inputs, targets = data.samples(chosen)
        steer.zero_grad(set_to_none=True)
        checked_losses(loss, model(inputs), targets).mean().backward()  # type: ignore[no-untyped-call] # torch leaves Tensor.backward untyped
        steer.step()
