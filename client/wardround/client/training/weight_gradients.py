"""Gradients of a convolution's weight, one for each sample, in several ways that cost differently.

A convolution is described from the side of its weight: `signal` [B, Cin, *in] is what the kernel
slides over and `error` [B, Cout, *out] has one entry for each place of the kernel. A transposed
convolution is the same with the two exchanged.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as f
from torch import Tensor

_BACKWARD = torch.ops.aten.convolution_backward


@dataclass(frozen=True, slots=True)
class Kernel:
    """The constants of a convolution. `weight` is its weight's shape, [Cout, Cin / groups, *k]."""

    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def pointwise(self) -> bool:
        """Whether this is a matrix product at each position."""
        ones = all(k == 1 for k in self.weight[2:]) and all(s == 1 for s in self.stride)
        return ones and not any(self.padding) and self.groups == 1


def summed(kernel: Kernel, signal: Tensor, error: Tensor) -> Tensor:
    """The gradient summed over the samples, [*weight]."""
    return _gradient(kernel, signal, error, kernel.groups, kernel.weight)


def grouped(kernel: Kernel, signal: Tensor, error: Tensor) -> Tensor:
    """Per sample, [B, *weight]: the samples become groups of one wide convolution."""
    batch = signal.shape[0]
    weight = (batch * kernel.weight[0], *kernel.weight[1:])
    wide = signal.reshape(1, -1, *signal.shape[2:]), error.reshape(1, -1, *error.shape[2:])
    gradient = _gradient(kernel, *wide, batch * kernel.groups, weight)
    return gradient.reshape(batch, *kernel.weight)


def one_by_one(kernel: Kernel, signal: Tensor, error: Tensor) -> Tensor:
    """Per sample, [B, *weight]: one backward call for each."""
    result = signal.new_empty(signal.shape[0], *kernel.weight)
    for i in range(signal.shape[0]):
        result[i] = summed(kernel, signal[i : i + 1], error[i : i + 1])
    return result


def unfolded(kernel: Kernel, signal: Tensor, error: Tensor) -> Tensor:
    """Per sample, [B, *weight]: a matrix product with the unfolded signal; groups 1 only."""
    product = error.flatten(2) @ patches(kernel, signal, error).transpose(1, 2)
    return product.reshape(signal.shape[0], *kernel.weight)


def patches(kernel: Kernel, signal: Tensor, error: Tensor) -> Tensor:
    """What the kernel sees at each of its T places, [B, Cin * prod(k), T]."""
    if kernel.pointwise:
        return signal.flatten(2)
    padded = _padded(kernel, signal)
    batch, channel, *space = padded.stride()
    view = padded.as_strided(
        (*padded.shape[:2], *kernel.weight[2:], *error.shape[2:]),
        (
            batch,
            channel,
            *(s * d for s, d in zip(space, kernel.dilation, strict=True)),
            *(s * d for s, d in zip(space, kernel.stride, strict=True)),
        ),
    )
    return view.reshape(padded.shape[0], -1, math.prod(error.shape[2:]))


def products(kernel: Kernel, signal: Tensor, error: Tensor) -> Tensor:
    """Inner products of what the kernel sees at every two places, [B, T, T].

    Two patches overlap position by position: their product is the sum, over the kernel, of the
    products of single positions. Those need no patches written out, and a part of the arithmetic.
    """
    inside, outside = tuple(signal.shape[2:]), tuple(error.shape[2:])
    places = math.prod(outside)
    direct = places**2 * math.prod(kernel.weight[2:])
    if kernel.pointwise or math.prod(inside) ** 2 > direct:
        seen = patches(kernel, signal, error)
        return seen.transpose(1, 2) @ seen
    flat = signal.flatten(2)
    single = (flat.transpose(1, 2) @ flat).flatten(1).t().contiguous()
    pairs, starts = _overlaps(kernel, inside, outside, signal.device)
    total = f.embedding_bag(pairs, single, starts, mode="sum")
    return total.t().reshape(-1, places, places)


@functools.lru_cache(maxsize=256)
def _overlaps(
    kernel: Kernel, inside: tuple[int, ...], outside: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each two places, which pairs of positions to add up; and where each list starts."""
    size = math.prod(inside)
    one = replace(kernel, weight=(1, 1, *kernel.weight[2:]))
    numbers = torch.arange(1, 1 + size, dtype=torch.float64, device=device)
    seen = patches(one, numbers.reshape(1, 1, *inside), numbers.new_empty(1, 1, *outside))[0]
    at = seen.long().t() - 1
    left, right = at[:, None, :], at[None, :, :]
    real = ((left >= 0) & (right >= 0)).flatten(0, 1)
    counts = real.sum(1)
    return (left * size + right).flatten(0, 1)[real], counts.cumsum(0) - counts


def _padded(kernel: Kernel, signal: Tensor) -> Tensor:
    pads = [p for size in reversed(kernel.padding) for p in (size, size)]
    return f.pad(signal, pads).contiguous() if any(pads) else signal.contiguous()


def _gradient(
    kernel: Kernel, signal: Tensor, error: Tensor, groups: int, weight: tuple[int, ...]
) -> Tensor:
    # Only the shape of the weight matters for its own gradient.
    shape = signal.new_empty(1).expand(weight)
    none = [0] * len(kernel.stride)
    gradient: Tensor = _BACKWARD(
        error, signal, shape, None,
        kernel.stride, kernel.padding, kernel.dilation, False, none, groups,
        [False, True, False],
    )[1]  # fmt: skip
    return gradient
