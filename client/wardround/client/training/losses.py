"""Losses that keep patients apart: a `[B]` vector, each entry made of its own sample alone.

A mean over the batch, a normaliser taken from the batch, or a Dice score over the whole batch
couples the samples: then removing one patient changes the gradients of all others, and clipping
each of them bounds nothing. Every loss here returns one number for each sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as f
from torch import Tensor


class PerSampleLoss(ABC):
    """A loss that a private step may use. Own losses derive from it; the engine tests them."""

    @abstractmethod
    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss for each sample, [B], from outputs [B, ...] and targets [B, ...]."""

    @abstractmethod
    def example_targets(self, outputs: Tensor) -> Tensor:
        """Valid targets for `outputs` [B, ...], independent of any data: for the self-test."""


def _mean(values: Tensor) -> Tensor:
    """Mean over everything but the first axis, [B]."""
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def _example_classes(outputs: Tensor) -> Tensor:
    """Class indices [B, *spatial] that differ from sample to sample."""
    shape = (outputs.shape[0], *outputs.shape[2:])
    count = torch.arange(torch.Size(shape).numel(), device=outputs.device)
    return (count * 7 // 3 % outputs.shape[1]).reshape(shape)


@dataclass(frozen=True, slots=True)
class CrossEntropy(PerSampleLoss):
    """Cross-entropy of logits [B, K, ...] and classes [B, ...]; mean over the positions."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss for each sample, [B]."""
        return _mean(f.cross_entropy(outputs, targets, reduction="none"))

    def example_targets(self, outputs: Tensor) -> Tensor:
        """Class indices."""
        return _example_classes(outputs)


@dataclass(frozen=True, slots=True)
class WeightedCrossEntropy(PerSampleLoss):
    """Cross-entropy with a weight for each class and a *fixed* normaliser, both from the plan.

    torch divides by the weights that happen to be in the batch: that couples the samples.
    """

    weights: tuple[float, ...]
    normaliser: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss for each sample, [B]."""
        weight = outputs.new_tensor(self.weights)
        return _mean(f.cross_entropy(outputs, targets, weight, reduction="none")) / self.normaliser

    def example_targets(self, outputs: Tensor) -> Tensor:
        """Class indices."""
        return _example_classes(outputs)


@dataclass(frozen=True, slots=True)
class BinaryCrossEntropy(PerSampleLoss):
    """Binary cross-entropy of logits and targets of the same size, [B] or [B, ...]; mean."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss for each sample, [B]."""
        wanted = targets.reshape(outputs.shape).to(outputs.dtype)
        return _mean(f.binary_cross_entropy_with_logits(outputs, wanted, reduction="none"))

    def example_targets(self, outputs: Tensor) -> Tensor:
        """Zeros and ones."""
        count = torch.arange(outputs.numel(), device=outputs.device)
        return (count * 7 // 3 % 2).reshape(outputs.shape).to(outputs.dtype)


@dataclass(frozen=True, slots=True)
class Focal(PerSampleLoss):
    """Focal loss of logits [B, K, ...] and classes [B, ...] (Lin et al., ICCV 2017)."""

    gamma: float = 2.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss for each sample, [B]."""
        entropy = f.cross_entropy(outputs, targets, reduction="none")
        return _mean((-torch.expm1(-entropy)).clamp(min=1e-12) ** self.gamma * entropy)

    def example_targets(self, outputs: Tensor) -> Tensor:
        """Class indices."""
        return _example_classes(outputs)


@dataclass(frozen=True, slots=True)
class Dice(PerSampleLoss):
    """1 - soft Dice of each sample, mean over its classes; logits [B, K, ...], classes [B, ...].

    Milletari et al., 3DV 2016, sample by sample. `smooth` keeps an absent class finite.
    """

    include_background: bool = False
    smooth: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss for each sample, [B]."""
        probability = outputs.softmax(1).flatten(2)
        classes = torch.arange(outputs.shape[1], device=outputs.device)
        truth = (targets.flatten(1)[:, None] == classes[:, None]).to(outputs.dtype)
        if not self.include_background:
            probability, truth = probability[:, 1:], truth[:, 1:]
        overlap = (probability * truth).sum(2)
        size = probability.sum(2) + truth.sum(2)
        return (1 - (2 * overlap + self.smooth) / (size + self.smooth)).mean(1)

    def example_targets(self, outputs: Tensor) -> Tensor:
        """Class indices."""
        return _example_classes(outputs)


@dataclass(frozen=True, slots=True)
class DiceCrossEntropy(PerSampleLoss):
    """The sum of `Dice` and `CrossEntropy`."""

    include_background: bool = False
    smooth: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss for each sample, [B]."""
        dice = Dice(self.include_background, self.smooth)
        return dice(outputs, targets) + CrossEntropy()(outputs, targets)

    def example_targets(self, outputs: Tensor) -> Tensor:
        """Class indices."""
        return _example_classes(outputs)


@dataclass(frozen=True, slots=True)
class ProportionalHazards(PerSampleLoss):
    """Cox's proportional hazards with a baseline that the plan fixes.

    Cox's *partial* likelihood compares each patient with all others at risk: it has no per-sample
    form, and no clipping makes it private. This is the full likelihood under a piecewise constant
    baseline hazard, exp(eta) H0(t) - event * (eta + log h0(t)). Its limit: the baseline must be
    public (from the literature or an earlier release), and a wrong one biases the risks' level,
    though little their order. Outputs eta [B] or [B, 1]; targets [B, 2]: time >= 0, event 0 or 1.
    `starts` are the left ends of the pieces, the first 0; `hazards` their rates, all > 0.
    """

    starts: tuple[float, ...]
    hazards: tuple[float, ...]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss for each sample, [B]."""
        eta = outputs.reshape(outputs.shape[0])
        time, event = targets[:, 0].to(eta.dtype), targets[:, 1].to(eta.dtype)
        start, rate = eta.new_tensor(self.starts), eta.new_tensor(self.hazards)
        width = torch.diff(start, append=start.new_tensor([float("inf")]))
        spent = (time[:, None] - start).clamp(min=0).minimum(width)
        piece = (time[:, None] >= start).sum(1).clamp(min=1) - 1
        return eta.exp() * (spent * rate).sum(1) - event * (eta + rate[piece].log())

    def example_targets(self, outputs: Tensor) -> Tensor:
        """Times from 1 upward, every second one an event."""
        count = torch.arange(outputs.shape[0], device=outputs.device, dtype=outputs.dtype)
        return torch.stack([count + 1, count % 2], 1)


@dataclass(frozen=True, slots=True)
class HalfSquare(PerSampleLoss):
    """Half the squared length of outputs [B, ...]; targets are not looked at."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss for each sample, [B]."""
        return outputs.flatten(1).square().sum(1) / 2

    def example_targets(self, outputs: Tensor) -> Tensor:
        """Zeros."""
        return outputs.new_zeros(outputs.shape[0], dtype=torch.long)


LossName = Literal["cross-entropy", "bce", "focal", "dice", "dice-ce", "half-square"]

CATALOGUE: dict[LossName, PerSampleLoss] = {
    "cross-entropy": CrossEntropy(),
    "bce": BinaryCrossEntropy(),
    "focal": Focal(),
    "dice": Dice(),
    "dice-ce": DiceCrossEntropy(),
    "half-square": HalfSquare(),
}
