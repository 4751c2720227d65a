"""Layers with a weight matrix or kernel: linear, convolution and transposed convolution.

Per layer shape a short trial decides how its gradients are kept: written out for each sample, or
deferred, as the norm alone (Goodfellow, arXiv 1510.01799; Rochette et al., arXiv 1912.06015) and a
weighted gradient once all norms are known. The trial's key knows the batch size only roughly,
because Poisson sampling changes it at every step.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from wardround.client.training import weight_gradients as ways
from wardround.client.training.tape import Tape, Units, squared_norms
from wardround.client.training.weight_gradients import Kernel

# Beyond this many places the ghost norm's [T, T] matrices cost more than they save.
GHOST_PLACES = 256
# Per-sample gradients may be written out where they take at most this many times the memory of the
# layer's input and output, or at most so many bytes for the whole batch.
EXPLICIT_MEMORY = 4.0
EXPLICIT_BYTES = 1 << 24
_TRIALS = 3
# Batches from this size on share one trial; smaller ones, as in the self-test, have their own.
_CROWD = 16

Way = Callable[[Kernel, Tensor, Tensor], Tensor]
WAYS: dict[str, Way] = {
    "unfolded": ways.unfolded,
    "grouped": ways.grouped,
    "one by one": ways.one_by_one,
}
_chosen: dict[tuple[object, ...], str] = {}


def multiply(kernel: Kernel, signal: Tensor, error: Tensor) -> Tensor:
    """The gradient summed over the samples, for linear layers as one matrix product."""
    if len(kernel.weight) > 2:
        return ways.summed(kernel, signal, error)
    left = error.transpose(1, 2).reshape(-1, error.shape[1])
    return left.T @ signal.transpose(1, 2).reshape(-1, signal.shape[1])


@dataclass(frozen=True, slots=True)
class Ghost:
    """A weight's gradients, deferred: `signal` and `error` as in `weight_gradients`."""

    kernel: Kernel
    signal: Tensor
    error: Tensor

    def squared_norms(self, units: Units) -> Tensor:
        """Squared norms from Gram matrices, float64 [count]; rounding only makes them larger."""
        error = units.line_up(self.error.flatten(2))
        if error.shape[2] == 1:
            seen = ways.patches(self.kernel, self.signal, self.error)
            return squared_norms(seen) * squared_norms(error)
        if units.single:
            product = ways.products(self.kernel, self.signal, self.error)
        else:
            seen = units.line_up(ways.patches(self.kernel, self.signal, self.error))
            product = seen.transpose(1, 2) @ seen
        product = product.mul_(error.transpose(1, 2) @ error).flatten(1)
        # Terms of both signs cancel, their rounding errors do not: a bound on those is added.
        slack = 8 * torch.finfo(product.dtype).eps
        exact = product.sum(1, dtype=torch.float64)
        bound: Tensor = (
            exact.clamp(min=0) + slack * torch.linalg.vector_norm(product, 1, dim=1).double()
        )
        return bound

    def weighted_sum(self, weight: Tensor, sound: Tensor | None) -> Tensor:
        """Sum over the samples with `weight` [B], without those that are not sound."""
        signal, error = self.signal, self.error
        if sound is not None:
            signal, error, weight = signal[sound], error[sound], weight[sound]
        scale = weight.to(error.dtype).reshape(-1, *[1] * (error.dim() - 1))
        return multiply(self.kernel, signal, error * scale)


class WeightLayer(ABC):
    """A layer with a weight and perhaps a bias, and the names of its parameters in the model."""

    def __init__(self, module: nn.Module, names: dict[str, str]) -> None:
        self.names = names
        self.bias = cast("Tensor | None", module.bias)
        self.weight = cast(Tensor, module.weight)
        self.train_weight = "weight" in names
        self.train_bias = "bias" in names

    @abstractmethod
    def run(self, x: Tensor) -> Tensor:
        """The layer's output."""

    @abstractmethod
    def input_gradient(self, x: Tensor, error: Tensor) -> Tensor:
        """Gradient for the input, from the one for the output."""

    @abstractmethod
    def sides(self, x: Tensor, error: Tensor) -> tuple[Kernel, Tensor, Tensor]:
        """Kernel, signal and error, as in `weight_gradients`."""

    def bias_gradient(self, error: Tensor) -> Tensor:
        """Per-sample gradient of the bias, [B, out]."""
        return error.flatten(2).sum(2) if error.dim() > 2 else error

    def record(self, x: Tensor, error: Tensor, tape: Tape) -> None:
        """Put the gradients of this layer's parameters on the tape, in the way that suits."""
        if self.train_bias:
            tape.add(self.names["bias"], self.bias_gradient(error))
        if not self.train_weight:
            return
        name = self.names["weight"]
        kernel, signal, error = self.sides(x, error)
        once = tape.calls[name] == 1
        way = choose(kernel, signal, error, ghost=once)
        if way == "ghost":
            tape.deferred[name] = Ghost(kernel, signal, error)
        else:
            tape.add(name, WAYS[way](kernel, signal, error))


class LinearLayer(WeightLayer):
    """`nn.Linear` on [B, *, in]."""

    def run(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return f.linear(x, self.weight, self.bias)

    def input_gradient(self, x: Tensor, error: Tensor) -> Tensor:
        """Gradient for the input, from the one for the output."""
        return error @ self.weight

    def sides(self, x: Tensor, error: Tensor) -> tuple[Kernel, Tensor, Tensor]:
        """Kernel, signal and error, as in `weight_gradients`."""
        kernel = Kernel(tuple(self.weight.shape), (), (), (), 1)
        return kernel, _columns(x), _columns(error)

    def bias_gradient(self, error: Tensor) -> Tensor:
        """Per-sample gradient of the bias, [B, out]."""
        return error.flatten(1, -2).sum(1) if error.dim() > 2 else error


class ConvolutionLayer(WeightLayer):
    """`nn.Conv1d` to `nn.ConvTranspose3d`, on [B, C, *space]; padding modes are applied outside."""

    def __init__(self, module: nn.Module, names: dict[str, str]) -> None:
        super().__init__(module, names)
        conv = cast(nn.Conv2d, module)
        self.transposed = conv.transposed
        self.stride = tuple(conv.stride)
        self.dilation = tuple(conv.dilation)
        self.groups = conv.groups
        self.output_padding = tuple(conv.output_padding)
        self.padding_mode = conv.padding_mode
        self.around = list(conv._reversed_padding_repeated_twice)
        self.outside = conv.padding_mode != "zeros" or isinstance(conv.padding, str)
        self.padding = (0,) * len(self.stride) if self.outside else cast(Any, conv.padding)
        shape = tuple(self.weight.shape)
        self.kernel = Kernel(shape, self.stride, tuple(self.padding), self.dilation, self.groups)

    def pad(self, x: Tensor) -> Tensor:
        """Padding that the convolution itself does not do: autograd follows it as it is."""
        if not self.outside:
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return f.pad(x, self.around, mode=mode)

    def run(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return torch.convolution(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, self.groups,
        )  # fmt: skip

    def input_gradient(self, x: Tensor, error: Tensor) -> Tensor:
        """Gradient for the input, from the one for the output."""
        gradient: Tensor = torch.ops.aten.convolution_backward(
            error, x, self.weight, None, self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, self.groups, [True, False, False],
        )[0]  # fmt: skip
        return gradient

    def sides(self, x: Tensor, error: Tensor) -> tuple[Kernel, Tensor, Tensor]:
        """Kernel, signal and error, as in `weight_gradients`."""
        return (self.kernel, error, x) if self.transposed else (self.kernel, x, error)


def choose(kernel: Kernel, signal: Tensor, error: Tensor, *, ghost: bool) -> str:
    """The way to keep this layer's gradients: "ghost", or a key of `WAYS`."""
    shape = (tuple(signal.shape[1:]), tuple(error.shape[1:]))
    crowd = min(len(signal), _CROWD).bit_length()
    key = (kernel, shape, crowd, signal.dtype, signal.device, torch.get_num_threads(), ghost)
    if key not in _chosen:
        _chosen[key] = _fastest(kernel, signal, error, _candidates(kernel, signal, error, ghost))
    return _chosen[key]


def _candidates(kernel: Kernel, signal: Tensor, error: Tensor, ghost: bool) -> list[str]:
    places = math.prod(error.shape[2:])
    deferrable = ghost and kernel.groups == 1 and places <= GHOST_PLACES
    size = math.prod(kernel.weight)
    large = size > EXPLICIT_MEMORY * (signal[0].numel() + error[0].numel())
    large = large and len(signal) * size * signal.element_size() > EXPLICIT_BYTES
    if deferrable and (places == 1 or large):
        return ["ghost"]
    names = ["ghost"] if deferrable else []
    if kernel.pointwise:
        return [*names, "unfolded"]
    if kernel.groups > 1:
        return ["grouped", "one by one"]
    return [*names, "unfolded", "grouped", "one by one"]


def _fastest(kernel: Kernel, signal: Tensor, error: Tensor, names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    weight = signal.new_ones(signal.shape[0], dtype=torch.float64)
    units = Units.of(torch.arange(signal.shape[0], device=signal.device))
    best = dict.fromkeys(names, math.inf)
    for _ in range(_TRIALS):
        for name in names:
            start = _now(signal)
            if name == "ghost":
                part = Ghost(kernel, signal, error)
                part.squared_norms(units)
                part.weighted_sum(weight, None)
            else:
                gradients = WAYS[name](kernel, signal, error)
                squared_norms(gradients)
                weight.to(gradients.dtype) @ gradients.flatten(1)
            best[name] = min(best[name], _now(signal) - start)
    return min(names, key=best.__getitem__)


def _now(like: Tensor) -> float:
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    return time.perf_counter()


def _columns(x: Tensor) -> Tensor:
    """[B, *, n] -> [B, n, T]; a view where x lies in order."""
    return x.reshape(x.shape[0], -1, x.shape[-1]).transpose(1, 2)
