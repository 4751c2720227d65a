"""Deltas of small networks that really train, made anew each time: what a site would upload."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from wardround.privacy.model import TensorLayout

KINDS = ("wide dense", "pooled", "residual", "transformer")


def networks() -> dict[str, Callable[[], Any]]:
    """Small networks of several kinds, all for images of 16 x 16 pixels and four classes.

    `wide dense`: a dense layer sees every pixel; its deltas have heavy tails. `pooled` averages
    over the image first, as residual networks do. `residual` is an encoder and decoder with
    skips and residual blocks, for segmentation. `transformer` has patches and attention.
    """
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x)

    class Tokens(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(2).transpose(1, 2)

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1)

    def convolutional(pooled: bool) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 128, 3, padding=1), nn.GroupNorm(8, 128), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(128, 128, 3, padding=1), nn.GroupNorm(8, 128), nn.ReLU(),
            *((nn.AdaptiveAvgPool2d(1),) if pooled else ()), nn.Flatten(),
            nn.Linear(128 if pooled else 128 * 16, 64), nn.ReLU(), nn.Linear(64, 4),
        )  # fmt: skip

    def block(width: int) -> nn.Module:
        return Residual(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
        )  # fmt: skip

    def residual() -> nn.Module:
        deep = nn.Sequential(
            nn.Conv2d(32, 64, 2, stride=2), block(64), nn.ConvTranspose2d(64, 32, 2, stride=2)
        )
        middle = nn.Sequential(
            nn.Conv2d(16, 32, 2, stride=2), block(32), Residual(deep), block(32),
            nn.ConvTranspose2d(32, 16, 2, stride=2),
        )  # fmt: skip
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), block(16), Residual(middle), block(16),
            nn.Conv2d(16, 5, 1),
        )  # fmt: skip

    def transformer() -> nn.Module:
        layers = (
            nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        return nn.Sequential(
            nn.Conv2d(1, 64, 4, stride=4), Tokens(), *layers, Mean(), nn.Linear(64, 4)
        )

    return {
        "wide dense": lambda: convolutional(False),
        "pooled": lambda: convolutional(True),
        "residual": residual,
        "transformer": transformer,
    }


def model_deltas(
    kind: str, sites: int, rounds: int
) -> tuple[list[TensorLayout], list[list[np.ndarray]]]:
    """Deltas of a network that really trains: [round][site] -> float32 [D].

    Each site holds invented images (gratings whose angle tells the class, in noise) with its own
    brightness; ten steps of SGD with momentum a round, then federated averaging. For segmentation
    a grating fills a disc, and each pixel is to be told.
    """
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = networks()[kind]()
    layout = [TensorLayout(name, tuple(p.shape)) for name, p in model.named_parameters()]
    axis = torch.arange(16.0)

    def images(site: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(0, 4, (count,))
        angle, phase = labels * math.pi / 4, 6.3 * torch.rand(count)
        along = torch.cos(angle)[:, None, None] * axis[None, None, :]
        across = torch.sin(angle)[:, None, None] * axis[None, :, None]
        grating = torch.sin(0.9 * (along + across) + phase[:, None, None])
        if kind == "residual":
            middle = 3 + 10 * torch.rand(2, count, 1, 1)
            disc = (axis[:, None] - middle[0]) ** 2 + (axis - middle[1]) ** 2 < 16
            grating, labels = 2 * grating * disc, disc * (labels + 1)[:, None, None]
        return (grating * (1 + site / sites) + torch.randn(count, 16, 16))[:, None], labels

    def flat() -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    weights, result = flat(), []
    for _ in range(rounds):
        deltas = []
        for site in range(sites):
            nn.utils.vector_to_parameters(weights.clone(), model.parameters())
            optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
            for _ in range(10):
                batch, labels = images(site, 32)
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(batch), labels).backward()
                optimiser.step()
            deltas.append((flat() - weights).numpy().astype(np.float32))
        weights = weights + torch.from_numpy(np.mean(deltas, axis=0))
        result.append(deltas)
    return layout, result
