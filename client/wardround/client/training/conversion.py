"""From batch statistics to group statistics.

A batch norm mixes the patients of a batch. A group norm (Wu and He, ECCV 2018) uses one sample
alone, has the same parameters, and trains better under noise.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

PREFERRED_GROUPS = 8
SMALLEST_GROUP = 4


def to_group_norm(model: nn.Module, groups: int = PREFERRED_GROUPS) -> nn.Module:
    """Replace every batch norm, in place, by a group norm of at most `groups` groups.

    Instance norms stop tracking running statistics. Returns the model, or the replacement where
    the model itself is a batch norm.
    """
    if isinstance(model, _InstanceNorm):
        model.track_running_stats = False
        model.running_mean = model.running_var = model.num_batches_tracked = None
        return model
    if isinstance(model, _BatchNorm):
        # A group of one channel would be a constant where the image has shrunk to one point.
        most = max(1, min(groups, model.num_features // SMALLEST_GROUP))
        count = math.gcd(model.num_features, most)
        place = next(model.parameters(), torch.empty(0))
        norm = nn.GroupNorm(count, model.num_features, model.eps, model.affine)
        return norm.to(place.device, place.dtype)
    for name, child in model.named_children():
        replacement = to_group_norm(child, groups)
        if replacement is not child:
            setattr(model, name, replacement)
    return model
