"""What is refused before a single patient's gradient is taken, and what to use instead.

First by rule, from the modules and the loss; then by experiment, see `experiment`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from wardround.client.errors import (
    BatchCoupled,
    LossRefused,
    ModuleRefused,
    TrainingRefused,
)
from wardround.client.training.engine import Engine, trainable
from wardround.client.training.experiment import engine_that_follows
from wardround.client.training.losses import PerSampleLoss

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)
# What a model raises that does not take the inputs, or that deepcopy does not take.
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


def validate(model: nn.Module, loss: object, input_shape: tuple[int, ...]) -> Engine:
    """Refuse whatever breaks the sensitivity bound, for inputs of `input_shape` (C, ...).

    Returns the engine to use, which follows this very model, whatever its weights become. Takes
    some seconds for a large network. Raises TrainingRefused.
    """
    sound = check_rules(model, loss)
    try:
        return engine_that_follows(model, sound, input_shape)
    except _FAILURES as error:
        first = str(error).partition("\n")[0]
        raise ModuleRefused(
            f"the model and the loss cannot be tried on inputs of shape {list(input_shape)} "
            f"({type(error).__name__}: {first}): they must take floating-point inputs of that "
            "shape, and be copyable"
        ) from error


def check_rules(model: nn.Module, loss: object) -> PerSampleLoss:
    """Refuse what the rules forbid, without the experiment: quick enough for each round.

    Returns the loss. Raises TrainingRefused.
    """
    sound = _checked_loss(loss)
    _check_wrapper(model)
    _check_modules(model)
    _check_precision(model)
    _check_registered_once(model)
    return sound


def check_accountant(name: str) -> None:
    """Refuse accountants that are not an upper bound."""
    if name.lower() not in ("pld", "rdp", "prv"):
        raise TrainingRefused(
            f"the accountant {name!r} is not an upper bound on epsilon (a Gaussian-DP "
            "approximation gave 7.95 where 8.41 is true): use PLD"
        )


def check_loader(loader: object) -> None:
    """Refuse data loaders: the engine draws its own Poisson sample of patients."""
    if isinstance(loader, torch.utils.data.DataLoader):
        raise TrainingRefused(
            "a data loader deals out shuffled batches, which the accountant does not cover: hand "
            "over the samples (TrainingData), and the engine draws patients by Poisson sampling"
        )


def _checked_loss(loss: object) -> PerSampleLoss:
    if isinstance(loss, PerSampleLoss):
        return loss
    if isinstance(loss, nn.Module):
        raise LossRefused(
            f"{type(loss).__name__} reduces over the batch, or may do so, which couples the "
            "patients: use the loss of the same name from wardround.client.training.losses"
        )
    raise LossRefused(
        "the loss is not a PerSampleLoss: take one from wardround.client.training.losses, or "
        "derive from PerSampleLoss and return one number for each sample"
    )


def _check_wrapper(model: nn.Module) -> None:
    kind = type(model)
    if kind.__module__.startswith("opacus.grad_sample"):
        raise ModuleRefused(
            f"{kind.__name__} is a wrapper of Opacus, whose hooks and ghost mode are wrong without "
            "a word for some layers and losses: hand over the network itself"
        )
    if isinstance(model, _PARALLEL):
        raise ModuleRefused(
            f"{kind.__name__} averages gradients before they are clipped: hand over the network "
            "itself, and the process group as `group` of train_round"
        )


def _check_modules(model: nn.Module) -> None:
    for name, module in model.named_modules():
        kind = type(module).__name__
        where = f"{name or 'the model'} ({kind})"
        if isinstance(module, _InstanceNorm):
            if module.track_running_stats:
                raise BatchCoupled(
                    f"{where} keeps running statistics, which leave without noise: build it with "
                    "track_running_stats=False"
                )
        elif isinstance(module, _BatchNorm):
            raise BatchCoupled(
                f"{where} mixes the patients of a batch: replace it by a group norm, "
                "wardround.client.training.conversion.to_group_norm(model) does so"
            )
        if isinstance(module, _RECURRENT):
            raise ModuleRefused(
                f"{where} is recurrent, which no engine here follows: use convolutions over time "
                "(nn.Conv1d) or attention"
            )
        if (
            hasattr(module, "weight_u")
            or "spectral" in repr(getattr(module, "parametrizations", "")).lower()
        ):
            raise BatchCoupled(
                f"{where} has spectral normalisation, whose power iteration changes with the "
                "data's order: leave it out; clipping already bounds the gradient"
            )
        if any(isinstance(p, nn.UninitializedParameter) for p in module._parameters.values()):
            raise ModuleRefused(f"{where} has no shape yet: run it once, or give its size")


def _check_precision(model: nn.Module) -> None:
    for name, parameter in trainable(model).items():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise TrainingRefused(
                f"{name} is kept in {parameter.dtype}: the clip holds for float32 and float64, and "
                "a norm in fewer bits comes out below the true one; train in float32, model.float()"
            )
        if torch.is_autocast_enabled(parameter.device.type):
            raise TrainingRefused(
                "training under torch.autocast makes norms and sums in few bits, so that the clip "
                "would not hold: leave it out; full float32 is what the bound is tested for"
            )


def _check_registered_once(model: nn.Module) -> None:
    owner: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = owner.setdefault(id(parameter), name)
        if first != name and parameter.requires_grad:
            raise ModuleRefused(
                f"{name} and {first} are one parameter under two names: register the module once "
                "(delete one of the attributes) or give each place a module of its own"
            )
