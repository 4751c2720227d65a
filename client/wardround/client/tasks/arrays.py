"""A model as named arrays: what a plan lists, what an update carries, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wardround.client.errors import TaskInvalid

Layout = tuple[tuple[str, tuple[int, ...], str], ...]


def layout(model: nn.Module) -> Layout:
    """(name, shape, dtype) of every tensor that trains, in the model's order; dtype is float32."""
    return tuple(
        (name, tuple(p.shape), "float32") for name, p in model.named_parameters() if p.requires_grad
    )


def arrays(model: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """Copies of the tensors of `layout`, float32."""
    return {
        name: p.detach().cpu().float().numpy().copy()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


@torch.no_grad()
def load_arrays(model: nn.Module, values: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Set the tensors of `layout`. Raises TaskInvalid where a name or shape does not fit."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if own.keys() != values.keys():
        raise TaskInvalid(
            f"the arrays are those of another model: {len(own.keys() - values.keys())} missing, "
            f"{len(values.keys() - own.keys())} unknown"
        )
    for name, parameter in own.items():
        if tuple(values[name].shape) != tuple(parameter.shape):
            raise TaskInvalid(
                f"{name} has shape {values[name].shape}, the model needs {tuple(parameter.shape)}"
            )
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(values[name], dtype=np.float32)))
