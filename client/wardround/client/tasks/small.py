"""Small networks that train well under noise: few parameters, group norm, no batch statistics."""

from __future__ import annotations

import math

from torch import nn


def convnet(channels: int, classes: int, widths: tuple[int, ...], *, strided: bool) -> nn.Module:
    """Convolutions [C, H, W] -> [classes]: each width halves the image, by its stride or a pool."""
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
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def perceptron(features: int, classes: int, widths: tuple[int, ...]) -> nn.Module:
    """[features] -> [classes] through hidden layers; without any, logistic regression."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))
