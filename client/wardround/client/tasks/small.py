"""Small networks that train well under noise: few parameters, group norm, no batch statistics."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def convnet(
    channels: int, classes: int, widths: tuple[int, ...], *, strided: bool, grid: int
) -> nn.Module:
    """Convolutions [C, H, W] -> [classes]: each width halves the image, by its stride or a pool.

    What is left is averaged to grid x grid places for the last, linear layer. A grid of 4 learns in
    fewer steps than one mean over the image, which counts under noise.
    """
    layers: list[nn.Module] = []
    for width in widths:
        layers += [
            nn.Conv2d(channels, width, 3, stride=2 if strided else 1, padding=1),
            nn.GroupNorm(math.gcd(width, 4), width),
            nn.ReLU(),
        ]
        if not strided:
            layers.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(grid), nn.Flatten(), nn.Linear(channels * grid**2, classes)
    )


def perceptron(features: int, classes: int, widths: tuple[int, ...]) -> nn.Module:
    """[features] -> [classes] through hidden layers; without any, logistic regression."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


class Mean(nn.Module):
    """[B, features] -> how far each is from `mean` [features], the only parameter.

    With half the squared length as its loss a sample's gradient is `mean - sample`: so a mean is
    estimated under the same clipping, noise, ledger and protected sum as any other training.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """The distances, [B, features]."""
        return x - self.mean
