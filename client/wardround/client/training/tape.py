"""What one backward pass leaves behind, and the norms and weighted sums made of it.

Book-keeping (Bu et al., arXiv 2210.00038): the ordinary backward pass runs once; each layer hands
over either its per-sample gradients, or what is needed to find their norms and, once the norms of
all layers are known, their weighted sum. No second backward pass, and no gradient computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

# Norms come out of float32 sums: the clip aims this much below the bound.
CLIP_MARGIN = 1e-5
_PIECE = 4096


@dataclass(frozen=True, slots=True)
class Units:
    """Whose the samples of a batch are: `owner` [B] in 0 .. count-1, `slot` [B] its place there."""

    owner: Tensor
    slot: Tensor
    count: int
    depth: int

    @classmethod
    def of(cls, owner: Tensor) -> Units:
        """From the owner of each sample, int64 [B]; owners are numbered without a gap from 0."""
        count = int(owner.max()) + 1 if owner.numel() else 0
        same = owner[:, None] == owner[None, :]
        slot = same.tril(-1).sum(1)
        return cls(owner, slot, count, int(slot.max()) + 1 if owner.numel() else 0)

    @property
    def single(self) -> bool:
        """Whether every unit has exactly one sample, in order."""
        return self.depth <= 1 and bool((self.owner.diff() == 1).all())

    def gather(self, values: Tensor) -> Tensor:
        """Sum the samples of each unit: [B, ...] -> [count, ...]."""
        if self.single:
            return values
        return values.new_zeros(self.count, *values.shape[1:]).index_add_(0, self.owner, values)

    def line_up(self, values: Tensor) -> Tensor:
        """Put each unit's samples side by side, gaps zero: [B, K, T] -> [count, K, depth * T]."""
        if self.single:
            return values
        _, rows, places = values.shape
        wide = values.new_zeros(self.count, self.depth, rows, places)
        wide[self.owner, self.slot] = values
        return wide.transpose(1, 2).reshape(self.count, rows, self.depth * places)


class Deferred(Protocol):
    """A layer's gradients that were not written out."""

    def squared_norms(self, units: Units) -> Tensor:
        """Squared norm of each unit's gradient, float64 [count]; never below the true one."""

    def weighted_sum(self, weight: Tensor, sound: Tensor | None) -> Tensor:
        """Sum over the samples with `weight` [B]; samples not in `sound` [B] are left out."""


@dataclass(slots=True)
class Tape:
    """The record of one pass: per-sample gradients by parameter, and the deferred ones."""

    explicit: dict[str, Tensor] = field(default_factory=dict)
    deferred: dict[str, Deferred] = field(default_factory=dict)
    leaves: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, gradients: Tensor) -> None:
        """Per-sample gradients [B, *shape]; those of a layer that ran twice add up."""
        known = self.explicit.get(name)
        self.explicit[name] = gradients if known is None else known + gradients

    def leaf(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The copy of a parameter for each sample, made once a pass, so that uses add up."""
        if name not in self.leaves:
            self.leaves[name] = make().detach().requires_grad_()
        return self.leaves[name]

    def collect(self) -> None:
        """Take over the gradients of the leaves after the backward pass."""
        for name, leaf in self.leaves.items():
            if leaf.grad is not None:
                self.add(name, leaf.grad)
        self.leaves.clear()


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """The clipped gradients' sum by parameter; `nonfinite` units counted as zero."""

    total: dict[str, Tensor]
    nonfinite: int


def squared_norms(values: Tensor) -> Tensor:
    """Squared L2 norm of each row of [B, ...], float64 [B], in pieces that float32 can sum."""
    flat = values.flatten(1)
    whole = flat.shape[1] // _PIECE * _PIECE
    total: Tensor = torch.linalg.vector_norm(flat[:, whole:], dim=1).double().square()
    if whole:
        pieces = flat[:, :whole].reshape(flat.shape[0], -1, _PIECE)
        total += torch.linalg.vector_norm(pieces, dim=2).double().square().sum(1)
    return total


def clip_factors(squares: Tensor, clip: float) -> Tensor:
    """What each unit's gradient is multiplied by, float64 [count]; 0 where it is not finite."""
    limit = clip * (1 - CLIP_MARGIN)
    factors = (limit / squares.sqrt().clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1)
    return torch.where(squares.isfinite(), factors, 0.0)


@torch.no_grad()
def clipped_sum(tape: Tape, units: Units, clip: float) -> ClippedSum:
    """Clip the gradient of each unit to `clip` in L2, over all parameters, and add them up."""
    explicit = {name: units.gather(g) for name, g in tape.explicit.items()}
    squares = torch.zeros(units.count, dtype=torch.float64, device=units.owner.device)
    for gradient in explicit.values():
        squares += squared_norms(gradient)
    for part in tape.deferred.values():
        squares += part.squared_norms(units)
    factors = clip_factors(squares, clip)
    sound = squares.isfinite()
    lost = int((~sound).sum())
    total = {}
    for name, gradient in explicit.items():
        kept = gradient[sound] if lost else gradient
        used = factors[sound] if lost else factors
        weight = used.to(gradient.dtype)
        total[name] = (weight @ kept.flatten(1)).reshape(gradient.shape[1:])
    each = factors[units.owner]
    for name, part in tape.deferred.items():
        total[name] = part.weighted_sum(each, sound[units.owner] if lost else None)
    return ClippedSum(total, lost)
