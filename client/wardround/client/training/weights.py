"""Layers with a weight matrix or kernel: linear, convolution and transposed convolution.

A trial decides for each layer how its gradients are kept: written out for each sample, or deferred,
as the norm alone (Goodfellow, arXiv 1510.01799; Rochette et al., arXiv 1912.06015) and a weighted
gradient once all norms are known. Another one decides how the layer itself is computed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from wardround.client.training import weight_gradients as ways
from wardround.client.training.tape import Tape, Units, squared_norms
from wardround.client.training.trial import quickest
from wardround.client.training.weight_gradients import Kernel

# Beyond this many places the ghost norm's [T, T] matrices cost more than they save.
GHOST_PLACES = 256
# Per-sample gradients, or what a kernel sees at each place, may be written out where they take at
# most this many times the memory of the layer's input and output, or at most so many bytes for the
# whole batch. A trial obeys this too: a step must not fail for memory in order to become faster.
EXPLICIT_MEMORY = 4.0
EXPLICIT_BYTES = 1 << 24

Way = Callable[[Kernel, Tensor, Tensor], Tensor]
WAYS: dict[str, Way] = {
    "unfolded": ways.unfolded,
    "grouped": ways.grouped,
    "one by one": ways.one_by_one,
}


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
        other = error.transpose(1, 2) @ error
        underflow = self._underflow(_trace(product), _trace(other), error.shape[2])
        product = product.mul_(other).flatten(1)
        # Terms of both signs cancel, their rounding errors do not: a bound on those is added.
        slack = 8 * torch.finfo(product.dtype).eps
        exact = product.sum(1, dtype=torch.float64)
        bound: Tensor = (
            exact.clamp(min=0)
            + slack * torch.linalg.vector_norm(product, 1, dim=1).double()
            + underflow
        )
        return bound

    def _underflow(self, signal: Tensor, error: Tensor, places: int) -> Tensor:
        """What squares too small for the type can hide, [count], from the sides' squared norms.

        Tiny errors times huge signals are gradients as good as any. Each entry of one Gram matrix
        lacks at most `tiny` for each of its terms, and the other's entries add up to at most
        `places` times its trace.
        """
        rows, columns = self.kernel.weight[0], math.prod(self.kernel.weight[1:])
        tiny = torch.finfo(self.error.dtype).tiny
        return tiny * places * (rows * signal + columns * error + places)

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
        # A layer that ran in fewer bits hands over values of few bits, but norms are made in all.
        x, error = x.to(self.weight.dtype), error.to(self.weight.dtype)
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
        self.forwards: dict[str, Callable[[Tensor], Tensor]] = {"convolution": self._convolved}
        self.backwards: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"backward": self._backward}
        self._offer_more()

    def _offer_more(self) -> None:
        if self.transposed or any(s != 1 for s in self.stride):
            return
        if self.kernel.pointwise:
            self.forwards["product"] = self._multiplied
            self.backwards["product"] = self._multiplied_back
        elif all(a >= 0 for a in self._around()):
            self.backwards["flipped"] = self._flipped

    def _around(self) -> list[int]:
        """How far the mirrored kernel reaches over the error's edge."""
        sizes = zip(self.dilation, self.kernel.weight[2:], self.padding, strict=True)
        return [d * (k - 1) - p for d, k, p in sizes]

    def pad(self, x: Tensor) -> Tensor:
        """Padding that the convolution itself does not do: autograd follows it as it is."""
        if not self.outside:
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return f.pad(x, self.around, mode=mode)

    def run(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return self.forwards[quickest(self.forwards, self.kernel, x)](x)

    def input_gradient(self, x: Tensor, error: Tensor) -> Tensor:
        """Gradient for the input, from the one for the output."""
        return self.backwards[quickest(self.backwards, self.kernel, x, error)](x, error)

    def _convolved(self, x: Tensor) -> Tensor:
        return torch.convolution(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, self.groups,
        )  # fmt: skip

    def _multiplied(self, x: Tensor) -> Tensor:
        """A kernel of one position is a matrix."""
        weight = self.weight.flatten(1).expand(len(x), -1, -1)
        out = torch.bmm(weight, x.flatten(2))
        if self.bias is not None:
            out += self.bias[:, None]
        return out.reshape(*out.shape[:2], *x.shape[2:])

    def _backward(self, x: Tensor, error: Tensor) -> Tensor:
        gradient: Tensor = torch.ops.aten.convolution_backward(
            error, x, self.weight, None, self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, self.groups, [True, False, False],
        )[0]  # fmt: skip
        return gradient

    def _multiplied_back(self, x: Tensor, error: Tensor) -> Tensor:
        weight = self.weight.flatten(1).t().expand(len(x), -1, -1)
        return torch.bmm(weight, error.flatten(2)).reshape(x.shape)

    def _flipped(self, x: Tensor, error: Tensor) -> Tensor:
        """With stride 1 the gradient is a convolution of the error with the kernel mirrored."""
        apart = self.weight.reshape(self.groups, -1, *self.weight.shape[1:])
        weight = apart.transpose(1, 2).flatten(0, 1)
        mirrored = weight.flip(list(range(2, x.dim())))
        return torch.convolution(
            error, mirrored, None, self.stride, self._around(), self.dilation,
            False, self.output_padding, self.groups,
        )  # fmt: skip

    def sides(self, x: Tensor, error: Tensor) -> tuple[Kernel, Tensor, Tensor]:
        """Kernel, signal and error, as in `weight_gradients`."""
        return (self.kernel, error, x) if self.transposed else (self.kernel, x, error)


def choose(kernel: Kernel, signal: Tensor, error: Tensor, *, ghost: bool) -> str:
    """The way to keep this layer's gradients: "ghost", or a key of `WAYS`."""
    names = _candidates(kernel, signal, error, ghost)
    return quickest({n: partial(_keep, n, kernel) for n in names}, kernel, signal, error)


def _candidates(kernel: Kernel, signal: Tensor, error: Tensor, ghost: bool) -> list[str]:
    places = math.prod(error.shape[2:])
    deferrable = ghost and kernel.groups == 1 and places <= GHOST_PLACES
    size = math.prod(kernel.weight)

    def large(numbers: int) -> bool:
        """Whether so many numbers for each sample are too many to write out."""
        much = numbers > EXPLICIT_MEMORY * (signal[0].numel() + error[0].numel())
        return much and len(signal) * numbers * signal.element_size() > EXPLICIT_BYTES

    if deferrable and (places == 1 or large(size)):
        return ["ghost"]
    names = ["ghost"] if deferrable else []
    if kernel.pointwise:
        return [*names, "unfolded"]
    if kernel.groups > 1:
        return ["grouped", "one by one"]
    if not large(math.prod(kernel.weight[1:]) * places):
        names.append("unfolded")
    return [*names, "grouped", "one by one"]


def _keep(way: str, kernel: Kernel, signal: Tensor, error: Tensor) -> None:
    """All that a way will cost in a step."""
    weight = torch.ones(signal.shape[0], dtype=torch.float64, device=signal.device)
    if way == "ghost":
        part = Ghost(kernel, signal, error)
        part.squared_norms(Units.of(torch.arange(signal.shape[0], device=signal.device)))
        part.weighted_sum(weight, None)
    else:
        gradients = WAYS[way](kernel, signal, error)
        squared_norms(gradients)
        weight.to(gradients.dtype) @ gradients.flatten(1)


def _trace(gram: Tensor) -> Tensor:
    return gram.diagonal(dim1=1, dim2=2).sum(1, dtype=torch.float64)


def _columns(x: Tensor) -> Tensor:
    """[B, *, n] -> [B, n, T]; a view where x lies in order."""
    return x.reshape(x.shape[0], -1, x.shape[-1]).transpose(1, 2)
