"""The gradient engine: clipped sums of per-sample gradients from a single backward pass.

For the time of a pass the forward methods of the layers that hold parameters are replaced by ones
that do the same and keep, for each sample, what its gradient needs. The model itself, its
parameters and their `.grad` stay untouched. Works on any device, in float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, cast

import torch
from monai.networks.blocks.patchembedding import PatchEmbeddingBlock
from monai.networks.nets.vit import ViT
from torch import Tensor, nn

from wardround.client.errors import LossRefused, ModuleRefused
from wardround.client.training.expansion import FORWARDS, Forward, copies
from wardround.client.training.tape import ClippedSum, Tape, Units, clipped_sum
from wardround.client.training.weights import ConvolutionLayer, LinearLayer, WeightLayer

Loss = Callable[[Tensor, Tensor], Tensor]

_WEIGHTED: dict[type[nn.Module], type[WeightLayer]] = {
    nn.Linear: LinearLayer,
    nn.Conv1d: ConvolutionLayer,
    nn.Conv2d: ConvolutionLayer,
    nn.Conv3d: ConvolutionLayer,
    nn.ConvTranspose1d: ConvolutionLayer,
    nn.ConvTranspose2d: ConvolutionLayer,
    nn.ConvTranspose3d: ConvolutionLayer,
}
# Modules that add parameters of shape [1, ...] to every sample by broadcasting.
_BROADCAST: tuple[type[nn.Module], ...] = (PatchEmbeddingBlock, ViT)


class Engine(Protocol):
    """Whatever makes clipped sums of the gradients of `model`."""

    model: nn.Module

    def clipped_sum(
        self, loss: Loss, inputs: Tensor, targets: Tensor, units: Units, clip: float
    ) -> ClippedSum:
        """Sum over units of their mean gradient, each clipped to `clip` in L2."""

    def per_sample(self, loss: Loss, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The gradient of each sample's loss, name -> [B, *shape]: for tests and checks."""


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name; one registered under two names has the first."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def checked_losses(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each sample, [B]; anything of another shape is refused."""
    losses = loss(outputs, targets)
    if losses.shape != outputs.shape[:1]:
        raise LossRefused(
            f"the loss has shape {list(losses.shape)} for {outputs.shape[0]} samples: it must give "
            "one number for each sample; take one from wardround.client.training.losses"
        )
    return losses


class _Tap(torch.autograd.Function):
    """Runs a weight layer; its backward pass hands the layer's gradients to the tape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: WeightLayer, tape: Tape) -> Tensor:
        """The layer's output. `anchor` makes autograd come back even where x needs nothing."""
        ctx.save_for_backward(x)
        ctx.layer, ctx.tape = layer, tape
        return layer.run(x)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor | None, None, None, None]:
        """Gradient for x, if wanted; the parameters' go to the tape."""
        (x,) = ctx.saved_tensors
        ctx.layer.record(x.detach(), errors[0], ctx.tape)
        below = ctx.layer.input_gradient(x, errors[0]) if ctx.needs_input_grad[0] else None
        return below, None, None, None


class BookKeeping:
    """Per-sample gradients of a model made of the layers of `_WEIGHTED` and `FORWARDS`."""

    def __init__(self, model: nn.Module) -> None:
        """Raises ModuleRefused, naming the modules that it cannot follow."""
        self.model = model
        self._weighted: list[tuple[nn.Module, WeightLayer]] = []
        self._expanded: list[tuple[nn.Module, Forward, dict[str, str]]] = []
        self._broadcast: list[tuple[nn.Module, dict[str, str]]] = []
        self._place()

    def _place(self) -> None:
        known = {id(p): n for n, p in trainable(self.model).items()}
        unknown = []
        seen: set[int] = set()
        for path, module in self.model.named_modules():
            names = {
                n: known[id(p)]
                for n, p in module._parameters.items()
                if p is not None and id(p) in known
            }
            if not names:
                continue
            kind = type(module)
            twice = seen & {id(module._parameters[n]) for n in names}
            seen |= {id(module._parameters[n]) for n in names}
            plain = set(names) <= {"weight", "bias"} and not twice
            if kind in _WEIGHTED and plain:
                self._weighted.append((module, _WEIGHTED[kind](module, names)))
            elif kind in FORWARDS and plain:
                self._expanded.append((module, FORWARDS[kind], names))
            elif kind in _BROADCAST and all(_is_row(module._parameters[n]) for n in names):
                self._broadcast.append((module, names))
            else:
                unknown.append(f"{path or 'the model itself'} ({kind.__name__})")
        if unknown:
            raise ModuleRefused(
                f"the book-keeping engine cannot follow {', '.join(unknown[:5])}: use a layer that "
                "it knows, or the whole-model fallback `VectorisedGradients`"
            )

    @contextmanager
    def _recording(self, inputs: Tensor) -> Iterator[Tape]:
        tape, batch = Tape(), inputs.shape[0]
        anchor = torch.zeros((), device=inputs.device, requires_grad=True)
        moved: list[tuple[nn.Module, str, nn.Parameter]] = []
        try:
            for module, layer in self._weighted:
                module.forward = partial(_tapped, layer, tape, anchor, batch)
            for module, forward, names in self._expanded:
                module.forward = partial(_expanded, forward, module, names, tape, batch)
            for module, names in self._broadcast:
                for own, name in names.items():
                    parameter = cast(nn.Parameter, module._parameters.pop(own))
                    moved.append((module, own, parameter))
                    wide = copies(parameter[0], name, tape, batch)
                    object.__setattr__(module, own, wide)
            yield tape
        finally:
            for module, _ in self._weighted:
                del module.forward
            for module, _, _ in self._expanded:
                del module.forward
            for module, own, parameter in moved:
                object.__delattr__(module, own)
                module._parameters[own] = parameter

    def _pass(self, loss: Loss, inputs: Tensor, targets: Tensor, share: Tensor | None) -> Tape:
        with self._recording(inputs) as tape:
            losses = checked_losses(loss, self.model(inputs), targets)
            (losses if share is None else losses * share.to(losses.dtype)).sum().backward()  # type: ignore[no-untyped-call] # untyped in torch
        tape.collect()
        return tape

    def clipped_sum(
        self, loss: Loss, inputs: Tensor, targets: Tensor, units: Units, clip: float
    ) -> ClippedSum:
        """Sum over units of their mean gradient, each clipped to `clip` in L2."""
        tape = self._pass(loss, inputs, targets, mean_share(units))
        return clipped_sum(tape, units, clip)

    def per_sample(self, loss: Loss, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The gradient of each sample's loss, name -> [B, *shape]: for tests and checks."""
        tape = self._pass(loss, inputs, targets, None)
        batch = inputs.shape[0]
        result = dict(tape.explicit)
        eye = torch.eye(batch, dtype=torch.float64, device=inputs.device)
        for name, part in tape.deferred.items():
            result[name] = torch.stack([part.weighted_sum(row, row > 0) for row in eye])
        for name, parameter in trainable(self.model).items():
            shape = (batch, *parameter.shape)
            result[name] = (
                result[name].reshape(shape) if name in result else inputs.new_zeros(shape)
            )
        return result


def mean_share(units: Units) -> Tensor | None:
    """One over the number of samples of each sample's unit, [B]; None where all are 1."""
    if units.single:
        return None
    return 1.0 / torch.bincount(units.owner, minlength=units.count)[units.owner].double()


def _is_row(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and parameter.shape[:1] == (1,)


def _check_batch(x: Tensor, batch: int) -> None:
    if x.shape[0] != batch:
        raise ModuleRefused(
            f"a layer sees {x.shape[0]} rows where the batch has {batch} samples: the model folds "
            "samples into another axis, which only `VectorisedGradients` follows"
        )


def _tapped(layer: WeightLayer, tape: Tape, anchor: Tensor, batch: int, x: Tensor) -> Tensor:
    _check_batch(x, batch)
    if "weight" in layer.names:
        name = layer.names["weight"]
        tape.calls[name] = tape.calls.get(name, 0) + 1
    ready = layer.pad(x) if isinstance(layer, ConvolutionLayer) else x
    return cast(Tensor, _Tap.apply(ready, anchor, layer, tape))  # type: ignore[no-untyped-call] # torch has no type for it


def _expanded(
    forward: Forward, module: nn.Module, names: dict[str, str], tape: Tape, batch: int, x: Tensor
) -> Tensor:
    _check_batch(x, batch)
    return forward(module, names, tape, x)
