"""Layers whose parameters are small: each sample gets its own copy, and autograd does the rest.

A group norm over B samples of C channels is a group norm over one sample of B * C channels, with
the weight repeated B times. The gradient of the repeated weight is then the per-sample gradient,
at the cost of the ordinary pass. The same holds for instance norm and PReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch.nn.functional as f
from torch import Tensor, nn

from wardround.client.training.tape import Tape

Forward = Callable[[nn.Module, dict[str, str], Tape, Tensor], Tensor]


def copies(parameter: Tensor | None, name: str | None, tape: Tape, batch: int) -> Tensor | None:
    """`parameter` once for each sample, [batch, *shape]; a leaf of the graph where it trains."""
    if parameter is None:
        return None
    wide = parameter.detach().expand(batch, *parameter.shape)
    return wide if name is None else tape.leaf(name, wide.clone)


def _both(
    module: nn.Module, names: dict[str, str], tape: Tape, batch: int
) -> tuple[Tensor | None, Tensor | None]:
    weight = copies(cast("Tensor | None", module.weight), names.get("weight"), tape, batch)
    bias = copies(cast("Tensor | None", module.bias), names.get("bias"), tape, batch)
    return weight, bias


def _flat(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.reshape(-1)


def _wide(x: Tensor) -> Tensor:
    """[B, C, *space] -> [1, B * C, *space]."""
    return x.reshape(1, -1, *x.shape[2:])


def group_norm(module: nn.Module, names: dict[str, str], tape: Tape, x: Tensor) -> Tensor:
    """`nn.GroupNorm` on [B, C, *space]."""
    norm = cast(nn.GroupNorm, module)
    weight, bias = _both(module, names, tape, x.shape[0])
    groups = x.shape[0] * norm.num_groups
    out = f.group_norm(_wide(x), groups, _flat(weight), _flat(bias), norm.eps)
    return out.reshape(x.shape)


def instance_norm(module: nn.Module, names: dict[str, str], tape: Tape, x: Tensor) -> Tensor:
    """`nn.InstanceNorm*d` without running statistics, on [B, C, *space]."""
    norm = cast(nn.InstanceNorm2d, module)
    weight, bias = _both(module, names, tape, x.shape[0])
    out = f.instance_norm(_wide(x), None, None, _flat(weight), _flat(bias), eps=norm.eps)
    return out.reshape(x.shape)


def layer_norm(module: nn.Module, names: dict[str, str], tape: Tape, x: Tensor) -> Tensor:
    """`nn.LayerNorm` on [B, *, *normalised]."""
    norm = cast(nn.LayerNorm, module)
    weight, bias = _both(module, names, tape, x.shape[0])
    out = f.layer_norm(x, norm.normalized_shape, None, None, norm.eps)
    gap = [1] * (x.dim() - 1 - len(norm.normalized_shape))
    if weight is not None:
        out = out * weight.reshape(x.shape[0], *gap, *norm.normalized_shape)
    if bias is not None:
        out = out + bias.reshape(x.shape[0], *gap, *norm.normalized_shape)
    return out


def prelu(module: nn.Module, names: dict[str, str], tape: Tape, x: Tensor) -> Tensor:
    """`nn.PReLU` on [B, C, ...] or [B, C]."""
    weight = copies(cast(Tensor, module.weight), names.get("weight"), tape, x.shape[0])
    slopes = cast(Tensor, weight).expand(x.shape[0], x.shape[1]).reshape(-1)
    return f.prelu(_wide(x), slopes).reshape(x.shape)


FORWARDS: dict[type[nn.Module], Forward] = {
    nn.GroupNorm: group_norm,
    nn.InstanceNorm1d: instance_norm,
    nn.InstanceNorm2d: instance_norm,
    nn.InstanceNorm3d: instance_norm,
    nn.LayerNorm: layer_norm,
    nn.PReLU: prelu,
}
