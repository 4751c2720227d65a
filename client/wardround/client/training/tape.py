"""What one backward pass leaves behind, and the norms and weighted sums made of it.

Book-keeping (Bu et al., arXiv 2210.00038): the ordinary backward pass runs once; each layer hands
over either its per-sample gradients, or what is needed to find their norms and, once the norms of
all layers are known, their weighted sum. No second backward pass, and no gradient computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

# Norms come out of float32 sums, and so do the sums of a pass: two of 256 clips, of neighbours, may
# be rounded apart by 2 * 256 * 2^-24 = 3.1e-5 clips. The clip aims this much below the bound.
CLIP_MARGIN = 4e-5
_PIECE = 4096


@dataclass(frozen=True, slots=True)
class Units:
    """Whose the samples of a batch are: `owner` [B] in 0 .. count-1, `slot` [B] its place there.

    `depth` is the most samples of a unit; `single`, whether each has exactly one, in order.
    """

    owner: Tensor
    slot: Tensor
    count: int
    depth: int
    single: bool

    @classmethod
    def of(cls, owner: Tensor) -> Units:
        """From the owner of each sample, int64 [B]; owners are numbered without a gap from 0."""
        if not owner.numel():
            return cls(owner, owner, 0, 0, single=True)
        slot = (owner[:, None] == owner[None, :]).tril(-1).sum(1)
        single = bool((owner == torch.arange(len(owner), device=owner.device)).all())
        return cls(owner, slot, int(owner.max()) + 1, int(slot.max()) + 1, single)

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
    """Squared L2 norm of each row of [B, ...], float64 [B], in pieces that float32 can sum.

    Never below the true one: a square that underflows counts as the smallest number.
    """
    flat = values.flatten(1)
    whole = flat.shape[1] // _PIECE * _PIECE
    pieces = flat[:, :whole].reshape(len(flat), -1, _PIECE)
    norms = [torch.linalg.vector_norm(pieces, dim=2)] if whole else []
    if whole < flat.shape[1]:
        norms.append(torch.linalg.vector_norm(flat[:, whole:], dim=1, keepdim=True))
    least = flat.shape[1] * torch.finfo(flat.dtype).tiny
    return torch.cat(norms, 1).double().square().sum(1) + least


def clip_factors(squares: Tensor, clip: float) -> Tensor:
    """What each unit's gradient is multiplied by, float64 [count]; 0 where it is not finite."""
    limit = clip * (1 - CLIP_MARGIN)
    factors = (limit / squares.sqrt().clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1)
    return torch.where(squares.isfinite(), factors, 0.0)


_BACKENDS: Any = torch.backends
_SHORT = (
    _BACKENDS.cuda.matmul,
    _BACKENDS.cudnn.conv,
    _BACKENDS.mkldnn.matmul,
    _BACKENDS.mkldnn.conv,
)


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep products in float32 from being made in fewer bits (TF32 on a GPU, bfloat16 on a CPU).

    A norm and the sum that it bounds are made in different ways: rounded to 10 bits each, they
    would differ by far more than the margin of the clip.
    """
    before = [place.fp32_precision for place in _SHORT]
    try:
        for place in _SHORT:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, value in zip(_SHORT, before, strict=True):
            place.fp32_precision = value


@torch.no_grad()
@full_precision()
def clipped_sum(tape: Tape, units: Units, clip: float) -> ClippedSum:
    """Clip the gradient of each unit to `clip` in L2, over all parameters, and add them up.

    Uses the tape up.
    """
    blocks = [(parts, units.gather(block)) for parts, block in _blocks(tape.explicit)]
    squares = torch.zeros(units.count, dtype=torch.float64, device=units.owner.device)
    for _, block in blocks:
        squares += squared_norms(block)
    for part in tape.deferred.values():
        squares += part.squared_norms(units)
    factors = clip_factors(squares, clip)
    sound = squares.isfinite()
    lost = int((~sound).sum())
    total: dict[str, Tensor] = {}
    for parts, block in blocks:
        kept, used = (block[sound], factors[sound]) if lost else (block, factors)
        sums = torch.split(used.to(block.dtype) @ kept, [math.prod(shape) for _, shape in parts])
        total |= {n: v.reshape(shape) for (n, shape), v in zip(parts, sums, strict=True)}
    each = factors[units.owner]
    there = sound[units.owner] if lost else None
    while tape.deferred:
        name, part = tape.deferred.popitem()
        total[name] = part.weighted_sum(each, there)
    return ClippedSum(total, lost)


_Parts = list[tuple[str, torch.Size]]


def _blocks(explicit: dict[str, Tensor]) -> Iterator[tuple[_Parts, Tensor]]:
    """Empty `explicit` into matrices [B, n], the many small gradients side by side in one."""
    small = [name for name, gradient in explicit.items() if gradient[0].numel() <= _PIECE]
    if small:
        joined = torch.cat([explicit[name].flatten(1) for name in small], 1)
        yield [(name, explicit.pop(name).shape[1:]) for name in small], joined
    while explicit:
        name, gradient = explicit.popitem()
        yield [(name, gradient.shape[1:])], gradient.flatten(1)
